"""Records from a data set: one shard is one task, and its bytes depend on nothing but its keys."""

import contextlib
import functools
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrecords_builder import MAX_BAD_FRACTION, SHARD_MB, faults, local, lock, metadata, quarantine, spec
from tfrs import allocation, archive, frames, record_index, records
from tfrs.datasets.base import Dataset
from tfrs.errors import BadPatch, UserError
from tfrs.statistics import Measuring
from tfrs.storage import replacing

_BUFFER = 1 << 20  # bytes; measured: BigEarthNet's records are written in two thirds of the time
BUILD = ".build"  # holds the results of finished shards until the manifest is written


@dataclass(frozen=True)
class ShardTask:
    """Everything that one shard is made from."""

    dataset: Dataset
    root: Path
    directory: Path
    split: str
    name: str
    keys: tuple[str, ...]

    @property
    def result(self) -> Path:
        return self.directory / BUILD / f"{self.name}.json"

    @property
    def index(self) -> Path:
        return self.directory / BUILD / f"{self.name}.npy"

    def outcome(self) -> dict:
        """What is known of the shard, which is written."""
        return json.loads(self.result.read_text())


@dataclass(frozen=True)
class Build:
    """A set of records to be written.

    Attributes:
        head: What its manifest says before a patch is read (see `spec.head`).
        max_bad_fraction: See `quarantine.allowed`.
    """

    dataset: Dataset
    directory: Path
    head: dict
    tasks: tuple[ShardTask, ...]
    max_bad_fraction: float

    @property
    def folder(self) -> Path:
        return self.directory / BUILD

    @property
    def planned(self) -> int:
        return sum(len(task.keys) for task in self.tasks)


def prepare(
    dataset: Dataset,
    root: Path,
    out: Path,
    splits: dict[str, list[str]],
    *,
    shard_mb: float = SHARD_MB,
    options: dict | None = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> Build:
    """The build of the records of `splits` (keys in order, see `plan`) in `<out>/<name>/<version>`; touches nothing.

    Args:
        options: What else made the splits (seed, split files ...), kept in the manifest and compared when repeated.

    Raises:
        UserError: There is no patch.
    """
    directory = Path(out) / dataset.name / dataset.version
    tasks = _tasks(dataset, Path(root), directory, splits, shard_mb)
    return Build(dataset, directory, spec.head(dataset, splits, shard_mb, options or {}), tuple(tasks), max_bad_fraction)


def write(
    dataset: Dataset,
    root: Path,
    out: Path,
    splits: dict[str, list[str]],
    *,
    workers: int = 1,
    overwrite: bool = False,
    **settings,
) -> records.Records:
    """Write records with processes of this machine; see `prepare` for the arguments and `write_build` for the rest."""
    build = prepare(dataset, root, out, splits, **settings)
    return write_build(build, functools.partial(local.run, workers=workers), overwrite=overwrite)


def write_build(build: Build, run: Callable = local.run, *, overwrite: bool = False) -> records.Records:
    """Write all shards and the manifest.

    An interrupted call continues at the first unfinished shard when it is repeated.

    Args:
        run: Called as `run(write_shard, tasks, patches done before)`; yields every task once its shard is written. The bytes
            do not depend on it.

    Raises:
        UserError: There are other records already, another build is running there, the disk is full, the source is gone, or
            too many patches are bad.
    """
    if not overwrite and (existing := complete(build)):
        return existing
    with opened(build, overwrite=overwrite):
        write_shards(build, build.tasks, run)
        finish(build)
    return records.Records(build.directory)


def complete(build: Build) -> records.Records | None:
    """The records, where all are there.

    Raises:
        UserError: There are others.
    """
    if not (build.directory / records.MANIFEST).exists():
        return None
    existing = records.Records(build.directory)
    spec.refuse_other(build.directory, existing.manifest, build.head)
    if build.folder.exists():  # killed after the manifest was written; in use by --repair otherwise
        with contextlib.suppress(UserError), lock.hold(build.folder):
            shutil.rmtree(build.folder)
    return existing


@contextlib.contextmanager
def opened(build: Build, task: str = "", *, overwrite: bool = False) -> Iterator[None]:
    """The folder of a build, begun and locked for all of it or for one of its tasks (see `lock.hold`)."""
    try:
        build.folder.mkdir(parents=True, exist_ok=True)
        with lock.hold(build.folder, task):
            if overwrite:
                _clear(build.directory)
            elif (build.directory / records.MANIFEST).exists():  # there was none before the lock
                raise UserError(f"{build.directory}: another build has ended here just now; run the same command again")
            if not task:
                for path in build.directory.glob("*.tmp"):  # of processes that were killed
                    path.unlink()
            spec.begin(build.folder, build.head)
            yield
    except OSError as error:
        raise faults.storage(build.directory, error) from error


def write_shards(build: Build, tasks: Sequence[ShardTask], run: Callable) -> None:
    """Write those of the shards that are not there yet."""
    retry_before = quarantine.retry_before(build.folder, build.planned, build.max_bad_fraction)
    bad, todo = [], []
    for task in tasks:
        result = finished(task)
        if result is None or (result["quarantine"] and task.result.stat().st_mtime <= retry_before):
            todo.append(task)
        else:
            bad += result["quarantine"]
    done = sum(len(task.keys) for task in tasks) - sum(len(task.keys) for task in todo)
    most = quarantine.allowed(build.planned, build.max_bad_fraction)
    # Closed before the stop is noted: shards that are under way until then were written before it.
    with contextlib.closing(run(write_shard, todo, done)) as written:
        while len(bad) <= most and (task := next(written, None)):
            bad += finished(task)["quarantine"]
    quarantine.check(build.folder, bad, build.planned, build.max_bad_fraction)


def finish(build: Build) -> None:
    """Write the manifest and what else stands beside the shards, all of which are there."""
    metadata.finish(build.dataset, build.directory, build.tasks, build.head)
    shutil.rmtree(build.folder)


def finished(task: ShardTask) -> dict | None:
    """What is known of a shard that is written, None of another."""
    shard = task.directory / task.name
    try:
        result = task.outcome()
        np.load(task.index, mmap_mode="r")
        return result if shard.stat().st_size == result["bytes"] else None
    except (FileNotFoundError, ValueError, EOFError):  # a power failure leaves empty files
        return None


def _tasks(dataset: Dataset, root: Path, directory: Path, splits: dict, shard_mb: float) -> list[ShardTask]:
    if not any(splits.values()):
        raise UserError(f"{root}: no patch in any split; nothing to write")
    fields = dataset.schema.fields.values()
    size = sum(field.nbytes * (dataset.series_length if field.series else 1) for field in fields)
    tasks = []
    for split, keys in splits.items():
        shards = max(1, round(len(keys) * size / (shard_mb * 1e6)))
        for i, part in enumerate(np.array_split(np.array(keys, dtype=object), min(shards, len(keys)))):
            name = records.shard_name(dataset.name, split, i, min(shards, len(keys)))
            tasks.append(ShardTask(dataset, root.absolute(), directory.absolute(), split, name, tuple(part)))
    return tasks


def _clear(directory: Path) -> None:
    """Remove everything but the lock, the manifest first: without it, what is left is no set of records."""
    (directory / records.MANIFEST).unlink(missing_ok=True)
    for path in [*directory.iterdir(), *(directory / BUILD).iterdir()]:
        if path.is_file() and not path.name.startswith(lock.LOCK):
            path.unlink()


def write_shard(task: ShardTask, count: Callable[[], None] = local.count_patch) -> None:
    """Write one shard, its index and its result; each appears under its name only when it is complete.

    A cluster may run a task twice at once: it gives the same bytes, under temporary names of their own.
    """
    allocation.keep_freed()
    target, owner = task.directory / task.name, lock.suffix()
    try:
        with replacing(target, owner) as temporary:
            result, index = _write_records(task, temporary, count)
            table = io.BytesIO()  # np.save into a file says of a full disk only that less was written
            np.save(table, index)
        with replacing(task.index, owner) as temporary:
            temporary.write_bytes(table.getvalue())
        with replacing(task.result, owner) as temporary:
            temporary.write_text(json.dumps(result) + "\n")
    except OSError as error:
        raise faults.storage(target, error) from error


def _write_records(task: ShardTask, path: Path, count: Callable[[], None]) -> tuple[dict, np.ndarray]:
    """Write the frames of a shard; returns what the manifest will say of it, and its index."""
    schema = task.dataset.schema
    small = [name for name, spec in schema.fields.items() if spec.kind != "raster"]
    statistics = {sensor.name: Measuring(sensor) for sensor in task.dataset.sensors}
    pixels = {name: np.zeros(schema.classes(name), np.int64) for name in schema.maps()}
    quarantine: list[dict] = []
    rows: list[tuple] = []
    crc = size = 0
    with open(path, "wb", buffering=_BUFFER) as file:
        for sample in _read(task, quarantine, count):
            chunks, spans = schema.chunks(sample)
            start = size + frames.HEAD
            chunks, crc = frames.frame(chunks, crc)
            for chunk in chunks:
                file.write(chunk)
                size += len(chunk)
            places = {name: (start + first, start + last) for name, (first, last) in spans.items()}
            rows.append((start, size - frames.FOOT, places, {name: sample[name] for name in small}))
            for name in pixels:
                pixels[name] += schema.scheme(name).count(sample[name][0])
            if task.split == "train":
                for sensor in task.dataset.sensors:
                    images = sample[sensor.name]
                    for image in images.reshape(-1, *images.shape[-3:]):  # one, or those of a series
                        statistics[sensor.name].add(image)
    result = {
        "records": len(rows),
        "bytes": size,
        "crc32c": f"{crc:08x}",
        "statistics": {name: measuring.result().to_lists() for name, measuring in statistics.items()},
        "pixels": {name: counts.tolist() for name, counts in pixels.items()},
        "quarantine": quarantine,
    }
    return result, record_index.index_table(schema, rows)


def _read(task: ShardTask, quarantine: list[dict], count: Callable[[], None]) -> Iterable[dict]:
    for key in task.keys:
        try:
            sample = _read_patch(task, key)
        except BadPatch as error:
            faults.check_source(task.root, error.path)
            path = os.path.relpath(error.path, task.root) if os.path.isabs(error.path) else error.path
            reason = error.reason  # of GDAL, with paths in it; records do not tell where the source was
            for place in (task.root, archive.origin(task.root)):
                reason = reason.replace(f"{place}/", "")
            quarantine.append({"key": key, "split": task.split, "path": path, "reason": reason})
        else:
            yield sample
        count()


def _read_patch(task: ShardTask, key: str) -> dict:
    try:
        return task.dataset.read(task.root, key)
    except OSError as error:
        raise BadPatch(error.filename or key, error.strerror or str(error)) from error
