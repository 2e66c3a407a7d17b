"""A set of records on disk: shard names, manifest, and random access through an offset index.

An uncompressed TFRecord shard is a plain file. A raster of a record is a contiguous run of
bytes at a fixed place, so an index of those places turns memory-mapped shards into arrays without parsing anything.
"""

import copy
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfrs.errors import UserError, unknown
from tfrs.frames import open_shard
from tfrs.record_index import common_dtype, concatenate, index_name, index_shard
from tfrs.schema import Schema
from tfrs.sensors import Sensor

FORMAT = 1  # of the manifest and of the record layout; a reader refuses any other
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"


def shard_name(dataset: str, split: str, shard: int, shards: int) -> str:
    return f"{dataset}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"


class Records:
    """A finished set of records: its manifest, and each split as an indexed array."""

    def __init__(self, directory: str | os.PathLike):
        """Open `<output>/<dataset>/<version>`; a folder with exactly one such folder below it will do as well.

        Raises:
            UserError: There is no manifest, or it is of another format.
        """
        self.directory = _find(Path(directory))
        path = self.directory / MANIFEST
        try:
            self.manifest = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); build the records again with --overwrite") from error
        form = self.manifest.get("format") if isinstance(self.manifest, dict) else None
        if form != FORMAT:
            raise UserError(f"{path}: records of format {form}, this version reads format {FORMAT}; build them again")
        try:
            self.name: str = self.manifest["dataset"]
            self.schema = Schema.from_json(self.manifest["schema"])
            self.sensors = {
                name: Sensor(name, tuple(s["bands"]), s["dtype"], s["unit"], s["nodata"])
                for name, s in self.manifest["sensors"].items()
            }
            self.statistics: dict[str, dict[str, dict]] = self.manifest["statistics"]
            self._shards = {
                split: [self.directory / shard["name"] for shard in content["shards"]]
                for split, content in self.manifest["splits"].items()
            }
            self._bytes = {
                self.directory / shard["name"]: shard["bytes"]
                for content in self.manifest["splits"].values()
                for shard in content["shards"]
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: not a manifest of this package ({error}); build the records again with --overwrite"
            ) from error
        self.selection = ""  # in words, of records that were chosen from those on disk
        self._tables: dict[str, np.ndarray] = {}
        # Descriptors are limited (often 1,024) and a large set has more shards, so only the latest stay mapped.
        self.open = functools.lru_cache(maxsize=256)(open_shard)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._shards)

    def with_splits(self, splits: Mapping[str, Mapping[str, np.ndarray]], selection: str) -> "Records":
        """The same records in other splits; manifest and statistics stay those of the build.

        Args:
            splits: Per new split, the numbers of the records that it takes from each of the present ones.
            selection: What the choice is, in words.
        """
        chosen = copy.copy(self)
        chosen.selection = selection
        chosen._shards, chosen._tables = {}, {}
        for name, parts in splits.items():
            tables, shards = [], []
            for split, numbers in parts.items():
                tables.append(self.index(split)[numbers])
                tables[-1]["shard"] += len(shards)
                shards += self.shards(split)
            chosen._shards[name], chosen._tables[name] = shards, concatenate(tables, self.schema)
        return chosen

    def count(self, split: str) -> int:
        """Number of records of a split."""
        self.shards(split)  # which knows what splits there are
        if split in self._tables:
            return len(self._tables[split])
        return sum(shard["records"] for shard in self.manifest["splits"][split]["shards"])

    def shards(self, split: str) -> list[Path]:
        """The shard files of a split, in order."""
        if split not in self._shards:
            raise unknown(f"split of {self.directory}", split, self._shards)
        return self._shards[split]

    def chosen(self, split: str) -> list[np.ndarray] | None:
        """Per shard, the numbers of the records in it that belong to the split; None: all."""
        if split not in self._tables:
            return None
        table = self._tables[split]
        order = np.lexsort((table["number"], table["shard"]))
        ends = np.searchsorted(table["shard"][order], np.arange(1, len(self.shards(split))))
        return np.split(table["number"][order], ends)

    def shard(self, split: str, number: int) -> np.ndarray:
        """Bytes of a shard, memory-mapped."""
        return self.open(self.shards(split)[number])

    def check_files(self, split: str) -> None:
        """See that all shards of a split are there, and as long as they were written.

        Raises:
            UserError: One is not.
        """
        for path in self.shards(split):
            size = path.stat().st_size if path.exists() else 0
            if size != self._bytes[path]:
                raise UserError(
                    f"{path}: {size:,} bytes, but the manifest says {self._bytes[path]:,}; copy it again, or build it again: "
                    f"python -m tfrecords_builder verify {self.directory} --repair"
                )

    @functools.lru_cache(maxsize=8)
    def index(self, split: str) -> np.ndarray:
        """One row per record (columns: `record_index.index_table`), memory-mapped; rebuilt from the shards if it is gone."""
        if split in self._tables:
            return self._tables[split]
        path = self.directory / index_name(split)
        try:
            table = np.load(path, mmap_mode="r") if path.exists() else None
        except (ValueError, EOFError) as error:
            raise UserError(f"{path}: damaged ({error}); delete it to have it rebuilt") from error
        if table is not None and table.dtype.names != common_dtype([], self.schema).names:
            print(f"{path} is of an older version, so the shards are scanned each time; write it anew with verify --repair")
            table = None
        if table is None:
            parts = [index_shard(shard, self.schema, i) for i, shard in enumerate(self.shards(split))]
            return concatenate(parts, self.schema)
        if len(table) != self.count(split):
            raise UserError(f"{path}: {len(table)} rows for {self.count(split)} records; delete it to have it rebuilt")
        if len(table) and table["shard"][-1] != len(self.shards(split)) - 1:
            raise UserError(f"{path}: of another build, with {table['shard'][-1] + 1} shards; delete it to have it rebuilt")
        return table

    def sample(self, split: str, number: int) -> dict:
        """All fields of one record as NumPy arrays and Python values."""
        row = self.index(split)[number]
        return self.schema.parse(self.shard(split, int(row["shard"])), int(row["start"]), int(row["end"]))

    def samples(self, split: str):
        """Every record of a split in stored order."""
        return (self.sample(split, i) for i in range(self.count(split)))


def _find(directory: Path) -> Path:
    """The folder with the manifest: `directory` or the newest version below it."""
    if (directory / MANIFEST).is_file():
        return directory
    if not directory.is_dir():
        raise UserError(
            f"{directory}: no such directory; build records with python -m tfrecords_builder, or name another folder"
        )
    found = sorted((p.parent for p in [*directory.glob(f"*/{MANIFEST}"), *directory.glob(f"*/*/{MANIFEST}")]), key=_version)
    if not found:
        raise UserError(
            f"{directory}: no {MANIFEST} there; the build has not finished, or these are not records of this package"
        )
    if len({p.parent for p in found}) > 1:
        raise UserError(f"{directory}: several sets of records ({', '.join(map(str, found))}); name one of them")
    return found[-1]


def _version(directory: Path) -> tuple:
    return tuple(int(part) if part.isdigit() else 0 for part in directory.name.split("."))
