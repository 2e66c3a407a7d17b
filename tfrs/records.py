"""A set of records on disk: shard names, frames, manifest, and random access through an offset index.

An uncompressed TFRecord shard is a plain file of frames (length, CRC, data, CRC). A raster of a record is a contiguous run of
bytes at a fixed place, so an index of those places turns memory-mapped shards into arrays without parsing anything.
"""

import copy
import functools
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from tfrs.errors import UserError, unknown
from tfrs.schema import Schema
from tfrs.sensors import Sensor

FORMAT = 1  # of the manifest and of the record layout; a reader refuses any other
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
_MASK = 0xA282EAD8
HEAD, FOOT = 12, 4  # bytes of a frame before and after the data


def shard_name(dataset: str, split: str, shard: int, shards: int) -> str:
    return f"{dataset}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"


def index_name(split: str) -> str:
    return f"index-{split}.npy"


def crc32c(chunk: bytes | memoryview, before: int = 0) -> int:
    """CRC of a chunk, after others whose CRC is `before`."""
    # It takes no memoryview itself.
    return google_crc32c.extend(before, chunk if isinstance(chunk, bytes) else np.frombuffer(chunk, np.uint8))


def _masked_crc(*chunks: bytes | memoryview) -> int:
    crc = 0
    for chunk in chunks:
        crc = crc32c(chunk, crc)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def frame(chunks: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """A TFRecord frame around data in chunks: head (length and its CRC) with the first, the others, CRC of the data."""
    length = struct.pack("<Q", sum(map(len, chunks)))
    head = length + struct.pack("<I", _masked_crc(length))
    return [head + chunks[0], *chunks[1:], struct.pack("<I", _masked_crc(*chunks))]


def frames(shard: Path, *, check: bool = True):
    """Yield (start, end) of the data of every frame of a shard.

    Args:
        check: Also compare the CRC of the data, which reads every byte.

    Raises:
        UserError: The file is truncated or a CRC does not match; names the file and the record.
    """
    data = memoryview(open_shard(shard))
    at = number = 0
    while at < len(data):
        head = bytes(data[at : at + HEAD])
        if len(head) < HEAD:
            raise UserError(f"{shard}: record {number}: the file ends within the frame (truncated)")
        (length,), (crc,) = struct.unpack("<Q", head[:8]), struct.unpack("<I", head[8:])
        if crc != _masked_crc(head[:8]):
            raise UserError(f"{shard}: record {number}: CRC of the length does not match")
        start, end = at + HEAD, at + HEAD + length
        if end + FOOT > len(data):
            raise UserError(f"{shard}: record {number}: the file ends within the frame (truncated)")
        if check and struct.unpack("<I", bytes(data[end : end + FOOT]))[0] != _masked_crc(data[start:end]):
            raise UserError(f"{shard}: record {number}: CRC of the data does not match")
        yield start, end
        at, number = end + FOOT, number + 1


def open_shard(path: Path) -> np.ndarray:
    """A shard as a read-only memory-mapped array of bytes."""
    if not os.path.getsize(path):
        return np.zeros(0, np.uint8)  # an empty file cannot be mapped
    return np.memmap(path, np.uint8, "r").view(np.ndarray)  # a slice of a memmap costs 1.2 us, of this 0.2


def index_shard(shard: Path, schema: Schema, number: int = 0) -> np.ndarray:
    """The index of one shard as it is on disk (columns: `index_table`)."""
    data = memoryview(open_shard(shard))  # single bytes of a memory map cost a microsecond each, of a view of it none
    small = [name for name, spec in schema.fields.items() if spec.kind != "raster"]

    def rows():
        for start, end in frames(shard, check=False):
            found = schema.locate(data, start, end)
            yield start, end, found, {name: schema.value(data, name, found[name]) for name in small}

    return index_table(schema, rows(), number)


def index_table(schema: Schema, rows: Iterable[tuple[int, int, Mapping, Mapping]], number: int = 0) -> np.ndarray:
    """The index of one shard: a structured array with a row per record.

    Columns: `shard`, `number` in it, `start` and `end` of the serialised record, `at_<name>` (byte offset in the shard) of
    every raster, `steps_<name>` (length) of every series, and the values of every other field: texts (key, date ...) as bytes,
    labels as multi-hot.

    Args:
        rows: Per record its start and end in the shard, the spans of its rasters there, and its other values.
        number: Of the shard.
    """
    columns: dict[str, list] = {name: [] for name in ("start", "end")}
    for start, end, spans, sample in rows:
        columns["start"].append(start)
        columns["end"].append(end)
        for name, spec in schema.fields.items():
            if spec.kind == "raster":
                first, last = spans[name]
                columns.setdefault(f"at_{name}", []).append(first)
                if spec.series:
                    columns.setdefault(f"steps_{name}", []).append(spec.steps(last - first))
                continue
            value = sample[name]
            if spec.kind == "text":
                value = value.encode()
            elif spec.kind == "labels":
                value = [i in value for i in range(schema.classes(name))]
            columns.setdefault(name, []).append(value)
    widths = {name: max(map(len, columns.get(name, [])), default=1) for name in schema.texts()}
    table = np.zeros(len(columns["start"]), index_dtype(schema, widths))
    table["shard"], table["number"] = number, np.arange(len(table))
    for name, values in columns.items():
        if values:
            table[name] = values
    return table


def index_dtype(schema: Schema, widths: Mapping[str, int]) -> np.dtype:
    """Columns of an index whose texts have these widths in bytes."""
    columns = [("shard", "<u4"), ("number", "<u4"), ("start", "<u8"), ("end", "<u8")]
    columns += [(f"at_{name}", "<u8") for name, spec in schema.fields.items() if spec.kind == "raster"]
    columns += [(f"steps_{name}", "<u4") for name, spec in schema.fields.items() if spec.series]
    forms = {"label": lambda n: (n, "<i8"), "labels": lambda n: (n, "u1", schema.classes(n))}
    forms["fractions"] = lambda n: (n, "<f4", schema.classes(n))
    forms["vector"] = lambda n: (n, schema.fields[n].stored.str, schema.fields[n].shape)
    forms["text"] = lambda n: (n, f"S{max(widths[n], 1)}")
    columns += [forms[spec.kind](name) for name, spec in schema.fields.items() if spec.kind in forms]
    return np.dtype(columns)


def common_dtype(tables: list[np.ndarray], schema: Schema) -> np.dtype:
    """Columns wide enough for the texts of several indexes."""
    return index_dtype(schema, {name: max((t.dtype[name].itemsize for t in tables), default=1) for name in schema.texts()})


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
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: not a manifest of this package ({error}); build the records again with --overwrite"
            ) from error
        self.selection = ""  # in words, of records that were chosen from those on disk
        self._shards = {
            split: [self.directory / shard["name"] for shard in content["shards"]]
            for split, content in self.manifest["splits"].items()
        }
        self._bytes = {
            self.directory / shard["name"]: shard["bytes"]
            for content in self.manifest["splits"].values()
            for shard in content["shards"]
        }
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
        """One row per record (columns: `index_shard`), memory-mapped; rebuilt from the shards if the file is gone."""
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


def concatenate(parts: list[np.ndarray], schema: Schema) -> np.ndarray:
    """Index tables as one, wide enough for the longest texts."""
    dtype = common_dtype(parts, schema)
    return np.concatenate([np.zeros(0, dtype), *(part.astype(dtype) for part in parts)])


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
