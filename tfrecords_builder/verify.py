"""Every record read again and compared with the manifest, and so is what stands beside the shards."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from tfrecords_builder import local, quarantine
from tfrecords_builder.metadata import class_counts, pixel_counts, tfds_files
from tfrs.errors import UserError
from tfrs.frames import frames, open_shard
from tfrs.progress import progress
from tfrs.record_index import common_dtype, concatenate, index_name, index_shard
from tfrs.records import MANIFEST, QUARANTINE, Records
from tfrs.schema import Schema

CHUNK = 1 << 22


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file."""

    path: Path
    text: str

    def __str__(self):
        return f"{self.path}: {self.text}"


def verify(records: Records, workers: int = 1, repair: Callable[[Records, list[Problem]], None] | None = None) -> None:
    """Print a line for every problem found, or one that says that all is well.

    Args:
        repair: Called where there are problems; what it leaves is read again.

    Raises:
        UserError: There are problems.
    """
    problems = _print(find_problems(records, workers))
    if problems and repair:
        repair(records, problems)
        problems = _print(find_problems(records, workers))
    if problems:
        raise UserError(
            f"{records.directory}: {len(problems)} problem{'s' * (len(problems) > 1)} found, listed above; "
            + ("--repair cannot mend that: " if repair else "--repair mends shards, indexes and files of TFDS, or ")
            + "build the records again with --overwrite"
        )
    shards = [shard for split in records.manifest["splits"].values() for shard in split["shards"]]
    print(f"ok: {sum(shard['records'] for shard in shards)} records in {len(shards)} shards")


def _print(problems: list[Problem]) -> list[Problem]:
    for problem in problems:
        print(problem)
    return problems


def find_problems(records: Records, workers: int = 1) -> list[Problem]:
    """All that differs between files and manifest, each with a text that names the record.

    A shard is read up to its first bad record.
    """
    splits = records.manifest["splits"]
    jobs = [
        (shard, stated, records.schema, number)
        for split in splits
        for number, (shard, stated) in enumerate(zip(records.shards(split), splits[split]["shards"], strict=True))
    ]
    results = iter(_check_shards(jobs, workers))
    in_quarantine, problems = _quarantine(records)
    problems += _foreign_shards(records) + _tfds(records)
    for split in splits:
        tables, pixels = [], []
        for _ in splits[split]["shards"]:
            found, table, counts = next(results)
            problems += found
            tables.append(table)
            pixels.append(counts)
        problems += _index_file(records, split, tables)
        if all(table is not None for table in tables):
            table = concatenate(tables, records.schema)
            problems += _counts(records, split, table, pixel_counts(pixels)) + _twice(records, split, table, in_quarantine)
            if split == "train":
                problems += _statistics(records, table)
    return problems


def _check_shards(jobs: list[tuple], workers: int) -> list[tuple[list[Problem], np.ndarray | None, dict]]:
    workers = min(workers, len(jobs))
    settings = {"total": len(jobs), "unit": "shard", "desc": "verifying"}
    if workers < 2:
        return [check_shard(*job) for job in progress(iterable=jobs, **settings)]
    with local.pool(workers) as executor:
        # Not by `map`: broken off, it cancels what waits, over which the pool of Python 3.11 stumbles while its processes end.
        futures = [executor.submit(check_shard, *job) for job in jobs]
        return [future.result() for future in progress(iterable=futures, **settings)]


def check_shard(shard: Path, stated: dict, schema: Schema, number: int) -> tuple[list[Problem], np.ndarray | None, dict]:
    """Compare one shard with what the manifest states of it.

    Returns:
        Its problems, its index (see `index_shard`), None where a record is bad, and per map its pixels per class.
    """
    problems, record = [], 0
    pixels = {name: np.zeros(schema.classes(name), np.int64) for name in schema.maps()}
    try:
        size = shard.stat().st_size
        if size != stated["bytes"]:
            problems.append(Problem(shard, f"{size} bytes, manifest says {stated['bytes']}"))
        elif (crc := _crc32c(shard)) != stated["crc32c"]:
            problems.append(Problem(shard, f"CRC32C of the file is {crc}, manifest says {stated['crc32c']}"))
        data = open_shard(shard)
        for record, (start, end) in enumerate(frames(shard)):  # noqa: B007, read when locate raises
            spans = schema.locate(data, start, end)
            for name, counts in pixels.items():
                counts += schema.scheme(name).count(schema.value(data, name, spans[name])[0])
        table = index_shard(shard, schema, number)
    except OSError as error:
        return [*problems, Problem(shard, error.strerror)], None, {}
    except UserError as error:
        return [*problems, Problem(shard, str(error).removeprefix(f"{shard}: "))], None, {}
    except ValueError as error:
        return [*problems, Problem(shard, f"record {record}: {error}")], None, {}
    if len(table) != stated["records"]:
        problems.append(Problem(shard, f"{len(table)} records, manifest says {stated['records']}"))
    return problems, table, pixels


def _crc32c(path: Path) -> str:
    crc = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            crc.update(chunk)
    return crc.hexdigest().decode()


def _foreign_shards(records: Records) -> list[Problem]:
    known = {shard for split in records.manifest["splits"] for shard in records.shards(split)}
    found = sorted(set(records.directory.glob("*.tfrecord-*")) - known)
    return [Problem(path, "shard of another build, not in the manifest; delete it") for path in found]


def _tfds(records: Records) -> list[Problem]:
    problems = []
    for name, wanted in tfds_files(records.manifest).items():
        path = records.directory / name
        try:
            if _content(path, path.read_text()) != _content(path, wanted):
                problems.append(Problem(path, "not as the manifest says"))
        except FileNotFoundError:
            problems.append(Problem(path, "missing"))
        except (ValueError, TypeError) as error:
            problems.append(Problem(path, f"cannot be read ({error})"))
    return problems


def _content(path: Path, text: str):
    """What is compared of a file: not the description, of which the manifest says nothing."""
    return {**json.loads(text), "description": ""} if path.suffix == ".json" else text


def _quarantine(records: Records) -> tuple[set[str], list[Problem]]:
    """Keys in quarantine; the patches that the build began with are all there: as records or in quarantine."""
    stated, path, keys, problems = records.manifest["quarantined"], records.directory / QUARANTINE, set(), []
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            keys.add(quarantine.parse(line)["key"])
        except ValueError as error:
            problems.append(Problem(path, f"line {number} cannot be read ({error})"))
    if len(lines) != stated:
        problems.append(Problem(path, f"{len(lines)} patches, manifest says {stated}"))
    planned = sum(records.manifest["spec"]["patches"].values())
    kept = sum(map(records.count, records.manifest["splits"]))
    if planned != kept + stated:
        text = f"{planned} patches planned, but {kept} records and {stated} in quarantine"
        problems.append(Problem(records.directory / MANIFEST, text))
    return keys, problems


def _twice(records: Records, split: str, table: np.ndarray, in_quarantine: set[str]) -> list[Problem]:
    both = in_quarantine.intersection(key.decode() for key in table["key"].tolist())
    return [Problem(records.directory / QUARANTINE, f"{key} is a record of split {split} too") for key in sorted(both)]


def _index_file(records: Records, split: str, tables: list[np.ndarray | None]) -> list[Problem]:
    path = records.directory / index_name(split)
    if not path.exists():
        return [Problem(path, "missing")]
    try:
        stored = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        return [Problem(path, f"cannot be read ({error})")]
    expected = common_dtype([], records.schema).names
    if stored.dtype.names != expected:
        return [Problem(path, f"columns are {stored.dtype.names}, expected {expected}")]
    problems = []
    if len(stored) != records.count(split):
        problems.append(Problem(path, f"{len(stored)} rows, manifest says {records.count(split)}"))
    for number, table in enumerate(tables):
        if table is None:
            continue
        rows = stored[stored["shard"] == number]
        shard = records.shards(split)[number].name
        if len(rows) != len(table):
            problems.append(Problem(path, f"{len(rows)} rows for the {len(table)} records of {shard}"))
        elif (wrong := _differing(rows, table)).any():
            record = int(wrong.argmax())
            problems.append(Problem(path, f"row of record {record} of {shard} ({table['key'][record].decode()}) is wrong"))
    return problems


def _differing(rows: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Which rows differ in any column; keys are compared whatever the width of their column."""
    wrong = np.zeros(len(table), bool)
    for name in table.dtype.names:
        differs = rows[name] != table[name]
        wrong |= differs.any(axis=tuple(range(1, differs.ndim)))
    return wrong


def _counts(records: Records, split: str, table: np.ndarray, pixels: dict[str, list[int]]) -> list[Problem]:
    path, stated, problems = records.directory / MANIFEST, records.manifest["splits"][split], []
    if stated["records"] != len(table):
        problems.append(Problem(path, f"split {split} has {len(table)} records, manifest says {stated['records']}"))
    for name, counts in (class_counts(table, records.schema) | pixels).items():
        classes, numbers = records.schema.scheme(name).classes, (stated.get("classes") or {}).get(name)
        if not isinstance(numbers, list) or [*map(type, numbers)] != [*map(type, counts)]:
            problems.append(Problem(path, f"classes of {name} in split {split}: {len(counts)} numbers wanted, found {numbers}"))
            continue
        for label, found, said in zip(classes, counts, numbers, strict=True):
            if not np.isclose(found, said, rtol=1e-9, atol=0):
                text = f"{name} {label!r} of split {split}: {found} in the records, manifest says {said}"
                problems.append(Problem(path, text))
    return problems


def _statistics(records: Records, table: np.ndarray) -> list[Problem]:
    """Statistics are numbers, and of as many pixels as the training records have; they are not measured again."""
    path, problems = records.directory / MANIFEST, []
    for name, sensor in records.sensors.items():
        spec = records.schema.fields[name]
        pixels = int(table[f"steps_{name}"].sum() if spec.series else len(table)) * math.prod(spec.shape[-2:])
        for band in sensor.bands:
            row = records.statistics.get(name, {}).get(band, {})
            counted = sum(row.get(part, 0) for part in ("count", "nan", "nodata"))
            numbers = [row.get(part) for part in ("mean", "std", "min", "max")]
            if counted != pixels:
                problems.append(Problem(path, f"statistics of {name} {band} are of {counted} pixels, train has {pixels}"))
            elif row.get("count") and not all(value is not None and math.isfinite(value) for value in numbers):
                problems.append(Problem(path, f"statistics of {name} {band} are no numbers: {numbers}"))
    return problems
