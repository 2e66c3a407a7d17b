"""Records from a data set: one shard is one task, and its bytes depend on nothing but its keys."""

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from tfrecords_builder import SHARD_MB, metadata
from tfrs import allocation, records
from tfrs.datasets.base import Dataset
from tfrs.errors import BadPatch, UserError
from tfrs.progress import progress
from tfrs.statistics import BandStatistics
from tfrs.storage import replacing

LOCK = "lock"
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


def write(
    dataset: Dataset,
    root: Path,
    out: Path,
    splits: dict[str, list[str]],
    *,
    shard_mb: float = SHARD_MB,
    workers: int = 1,
    overwrite: bool = False,
    options: dict | None = None,
) -> records.Records:
    """Write the records of `splits` (keys in order, see `plan`) to `<out>/<name>/<version>`.

    The bytes do not depend on `workers`. An interrupted call continues at the first unfinished shard when it is repeated.

    Args:
        options: What else made the splits (seed, split files ...), kept in the manifest and compared when repeated.

    Raises:
        UserError: There are other records already, another build is running there, the disk is full, or no patch is good.
    """
    directory = Path(out) / dataset.name / dataset.version
    tasks = _tasks(dataset, Path(root), directory, splits, shard_mb)
    spec = _spec(dataset, splits, shard_mb, options or {})
    if (directory / records.MANIFEST).exists() and not overwrite:
        existing = records.Records(directory)
        _same_spec(directory, existing.manifest["spec"], spec)
        return existing
    try:
        (directory / BUILD).mkdir(parents=True, exist_ok=True)
        with _lock(directory):
            if overwrite:
                _clear(directory)
            _begin(directory, spec)
            todo = [task for task in tasks if not _finished(task)]
            done = sum(len(task.keys) for task in tasks) - sum(len(task.keys) for task in todo)
            _run(todo, workers, done)
            metadata.finish(dataset, directory, tasks, spec)
            shutil.rmtree(directory / BUILD)
    except OSError as error:
        raise _storage_error(directory, error) from error
    return records.Records(directory)


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
            tasks.append(ShardTask(dataset, root.absolute(), directory, split, name, tuple(part)))
    return tasks


def _spec(dataset: Dataset, splits: dict, shard_mb: float, options: dict) -> dict:
    digests = {split: hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16] for split, keys in splits.items()}
    counts = {split: len(keys) for split, keys in splits.items()}
    spec = {"format": records.FORMAT, "shard_mb": shard_mb, **asdict(dataset), **options, "patches": counts, "keys": digests}
    return json.loads(json.dumps(spec))  # as it will be read again to be compared: tuples are lists


def _same_spec(directory: Path, found: dict, wanted: dict) -> None:
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    # Other options lead to other keys: where there is such a cause, it says enough.
    names = [name for name in names if name not in ("keys", "patches")] or names
    if names:
        difference = "; ".join(f"{name}: {found.get(name)} there, {wanted.get(name)} asked for" for name in names)
        raise UserError(
            f"{directory} holds other records ({difference}); give --overwrite to replace them, or another --output"
        )


def _clear(directory: Path) -> None:
    """Remove everything but the lock, the manifest first: without it, what is left is no set of records."""
    (directory / records.MANIFEST).unlink(missing_ok=True)
    for path in [*directory.iterdir(), *(directory / BUILD).iterdir()]:
        if path.is_file() and path.name != LOCK:
            path.unlink()


def _begin(directory: Path, spec: dict) -> None:
    path = directory / BUILD / "spec.json"
    if path.exists():
        _same_spec(directory, json.loads(path.read_text()), spec)
    else:
        metadata.write_json(path, spec)


class _lock:
    """An advisory lock on the build folder; the system releases it when its owner dies, so it cannot go stale."""

    def __init__(self, directory: Path):
        self.path = directory / BUILD / LOCK

    def __enter__(self):
        self.file = open(self.path, "a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.seek(0)
            owner = self.file.read()
            self.file.close()
            raise UserError(f"{self.path.parent.parent}: another build is writing here (process {owner})") from error
        self.file.truncate(0)
        self.file.write(str(os.getpid()))
        self.file.flush()

    def __exit__(self, *_):
        self.file.close()


def _finished(task: ShardTask) -> bool:
    if not task.result.exists():
        return False
    shard = task.directory / task.name
    return shard.exists() and shard.stat().st_size == json.loads(task.result.read_text())["bytes"]


def _run(tasks: list[ShardTask], workers: int, done: int) -> None:
    total = done + sum(len(task.keys) for task in tasks)
    with progress(total=total, initial=done, unit="patches", desc="writing") as bar:
        if workers == 1 or len(tasks) < 2:
            for task in tasks:
                write_shard(task, bar.update)
            return
        # Spawned, not forked: GDAL and TensorFlow hold threads that do not survive a fork.
        context = multiprocessing.get_context("spawn")
        counter = context.Value("q", 0)
        with ProcessPoolExecutor(workers, context, _share, (counter,)) as pool:
            pending = {pool.submit(write_shard, task) for task in tasks}
            try:
                while pending:
                    finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    bar.update(counter.value + done - bar.n)
                    for future in finished:
                        future.result()
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process died (killed for memory?); finished shards are kept: "
                    "run the same command again, with fewer --workers"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


_counter = None


def _share(counter) -> None:
    global _counter
    _counter = counter
    # A worker whose parent was killed would wait for tasks for ever.
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


def _count_patch() -> None:
    if _counter is not None:
        with _counter.get_lock():
            _counter.value += 1


def write_shard(task: ShardTask, count: Callable[[], None] = _count_patch) -> None:
    """Write one shard, its index and its result; the shard appears under its name only when it is complete."""
    allocation.keep_freed()
    target = task.directory / task.name
    try:
        with replacing(target) as temporary:
            result = _write_records(task, temporary, count)
            np.save(task.index, records.index_shard(temporary, task.dataset.schema))
        metadata.write_json(task.result, result)
    except OSError as error:
        raise _storage_error(target, error) from error


def _write_records(task: ShardTask, path: Path, count: Callable[[], None]) -> dict:
    """Write the frames of a shard; returns what the manifest will say of it."""
    statistics = {sensor.name: BandStatistics.empty(len(sensor.bands)) for sensor in task.dataset.sensors}
    quarantine: list[dict] = []
    crc = google_crc32c.Checksum()
    written = 0
    with open(path, "wb") as file:
        for sample in _read(task, quarantine, count):
            for part in records.frame(task.dataset.schema.encode(sample)):
                file.write(part)
                crc.update(part)
            written += 1
            if task.split == "train":
                for sensor in task.dataset.sensors:
                    images = sample[sensor.name]
                    for image in images.reshape(-1, *images.shape[-3:]):  # one, or those of a series
                        patch = BandStatistics.measure(image, sensor.nodata)
                        statistics[sensor.name] = statistics[sensor.name].merge(patch)
        size = file.tell()
    return {
        "records": written,
        "bytes": size,
        "crc32c": crc.hexdigest().decode(),
        "statistics": {name: value.to_lists() for name, value in statistics.items()},
        "quarantine": quarantine,
    }


def _read(task: ShardTask, quarantine: list[dict], count: Callable[[], None]) -> Iterable[dict]:
    for key in task.keys:
        try:
            yield task.dataset.read(task.root, key)
        except BadPatch as error:
            path = os.path.relpath(error.path, task.root) if os.path.isabs(error.path) else error.path
            quarantine.append({"key": key, "split": task.split, "path": path, "reason": error.reason})
        count()


def _storage_error(path: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOSPC:
        return UserError(
            f"{path}: the disk is full; free some space and run the same command again, it continues where it stopped"
        )
    return UserError(
        f"{error.filename or path}: {error.strerror}; mend it and run the same command again (finished shards are kept), "
        "or give another --output"
    )
