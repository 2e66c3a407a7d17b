"""Building records against the limit and against peers, on the same simulated files in one run: python -m benchmarks.build

The command is timed as a whole, start-up included, peers without theirs. Ways alternate, and the median of the repeats counts.
Targets are ratios, because absolute figures drift between machines; a loaded machine blurs them too, so its load is printed.

The data sets meant have hundreds of gigabytes: there are so many patches that start-up (half a second) does not decide, and
SEN12MS (4 GB) passes what a system keeps unwritten, so that the disk has its say in copying as in building. What one way has
left unwritten is on the disk before the next begins. `--data` on /dev/shm (5 GB; the sources are links of few files) takes the
disk out of the comparison.
The limit is copying the same files through a program's memory, since no record can be made of bytes that were never looked at.
`shutil.copyfile` is shown beside it: there the kernel copies from page to page, with half the traffic.
rico-hdl is itself where it is installed; else its method (`by_band_into_lmdb`) stands in its row, and is named so.
"""

import functools
import importlib.util
import multiprocessing
import multiprocessing.util
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from absl import app, flags

from tfrs.command import import_tensorflow

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "folder for the simulated files, kept for the next run (default: a temporary one)")
flags.DEFINE_float("scale", 1, "so many times the usual number of patches")
flags.DEFINE_integer("repeats", 3, "runs of each way, of which the median counts", lower_bound=1)
flags.DEFINE_list("datasets", ["sen12ms", "bigearthnet", "eurosat"], "data sets to build")
flags.DEFINE_list("forms", ["plain", "lzw", "deflate"], "compressions of the sources")

# Simulated patches, and how many they become by links under other names: building knows no difference, simulating is slow.
PATCHES = {"sen12ms": (60, 1500), "bigearthnet": (300, 10_000), "eurosat": (1000, 27_000)}
flags.register_validator("datasets", lambda names: set(names) <= PATCHES.keys(), f"choose from {', '.join(PATCHES)}")
FLAGS_OF = {"bigearthnet": ["--native_resolution"]}  # as the sources are; resampled, records have twice the bytes
# Of the speed of copying the same files with two processes.
OF_COPY = {"sen12ms": 0.6, "bigearthnet": 0.8, "eurosat": 0.6}
RICO = "rico-hdl"
RICO_ARGUMENTS = {
    "bigearthnet": ("bigearthnet", "--bigearthnet-s2-dir"),
    "eurosat": ("eurosat-multi-spectral", "--dataset-dir"),
}
OF_RICO = {"bigearthnet": 15, "eurosat": 25}
MEMORY_MB, GROWTH, GROWN = 150, 1.05, ("eurosat", 2_000, 16_000)


def sources(folder: Path, name: str, form: str, count: int) -> Path:
    """Files of `count` patches, simulated, compressed and linked."""
    from tfrs import geotiff, registry

    distinct = min(PATCHES[name][0], count)
    plain = folder / f"{name}-{distinct}"
    if not plain.exists():
        temporary = folder / "tmp"
        registry.dataset(name)().synthesize(temporary, distinct, 0)
        shutil.rmtree(temporary / "BigEarthNet-S1-v1.0", ignore_errors=True)
        temporary.rename(plain)
    compressed = folder / f"{name}-{distinct}-{form}"
    if form != "plain" and not compressed.exists():
        shutil.copytree(plain, folder / "tmp")
        for path in (folder / "tmp").rglob("*.tif"):
            geotiff.write(path, geotiff.read(path), compress=form)
        (folder / "tmp").rename(compressed)
    linked, origin = folder / f"{name}-{distinct}-{form}-as-{count}", plain if form == "plain" else compressed
    if not linked.exists():
        patches = _patches(origin)
        for number in range(count):
            for path in patches[number % len(patches)]:
                old = _PART.sub("", path.stem)
                # River_12, ..._s2_1_p30, ..._41_73: the last number, in BigEarthNet the last two, of three digits at most.
                new = re.sub(
                    r"\d+_\d+$|\d+$", f"{number // 1000}_{number % 1000}" if name == "bigearthnet" else str(number), old
                )
                target = folder / "tmp" / str(path.relative_to(origin)).replace(old, new)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, target)
        (folder / "tmp").rename(linked)
    return linked


_PART = re.compile(r"_(B..|labels_metadata)$")  # what follows the patch's name in those of BigEarthNet's files


def _patches(root: Path) -> list[list[Path]]:
    """Files by patch."""
    found: dict[str, list[Path]] = {}
    for path in sorted([*root.rglob("*.tif"), *root.rglob("*.json")]):
        patch = re.sub(r"_(s1|s2|lc)_", "_", _PART.sub("", path.stem))
        found.setdefault(patch, []).append(path)
    return list(found.values())


def copy(patches: list[list[Path]], target: Path) -> None:
    """The limit that the targets name: the same files, read and written."""
    target.mkdir(exist_ok=True)
    for number, path in enumerate(path for paths in patches for path in paths):
        with open(path, "rb", buffering=0) as file, open(target / str(number), "wb", buffering=0) as out:
            out.write(file.read())


def copy_in_kernel(patches: list[list[Path]], target: Path) -> None:
    """The same files copied by the system (sendfile), whose bytes no program sees."""
    target.mkdir(exist_ok=True)
    for number, path in enumerate(path for paths in patches for path in paths):
        shutil.copyfile(path, target / str(number))


def join(patches: list[list[Path]], target: Path) -> None:
    """Every byte read and written, into one file: what copying costs without creating files."""
    with open(target, "wb") as out:
        for path in (path for paths in patches for path in paths):
            with open(path, "rb", buffering=0) as file:
                out.write(file.read())


def naive(patches: list[list[Path]], target: Path) -> None:
    """What a script does: rasterio as it is, one Example a patch, TensorFlow's writer."""
    import rasterio
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(target)) as out:
        for paths in patches:
            features = {}
            for path in paths:
                if path.suffix == ".tif":
                    with rasterio.open(path) as source:
                        features[path.stem] = source.read().tobytes()
                        features[f"{path.stem}_crs"] = str(source.crs).encode()
            example = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for name, v in features.items()}
            out.write(tf.train.Example(features=tf.train.Features(feature=example)).SerializeToString())


def by_rasterio(patches: list[list[Path]], target: Path) -> None:
    """rasterio with its best options, pixels appended to a file."""
    import rasterio

    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), open(target, "wb") as out:
        for path in (path for paths in patches for path in paths if path.suffix == ".tif"):
            with rasterio.open(path, sharing=False) as source:
                out.write(source.read().tobytes() + str(source.crs).encode())


def by_tifffile(patches: list[list[Path]], target: Path) -> None:
    """tifffile (with imagecodecs, where the files are compressed), pixels appended to a file."""
    import tifffile

    with open(target, "wb") as out:
        for path in (path for paths in patches for path in paths if path.suffix == ".tif"):
            with tifffile.TiffFile(path) as file:
                out.write(file.asarray().tobytes() + str(file.geotiff_metadata["ProjectedCSTypeGeoKey"]).encode())


def by_band_into_lmdb(patches: list[list[Path]], target: Path) -> None:
    """rico-hdl's method, as its published code has it: two processes open a file with rasterio for every band of it, and send
    the bands of a patch in the form of safetensors to this one, which puts 512 such values into LMDB in each transaction.
    """
    import lmdb

    target.mkdir(exist_ok=True)
    with lmdb.open(str(target), map_size=1 << 40) as database:
        for first in range(0, len(patches), 512):
            with database.begin(write=True) as transaction:
                for key, value in _readers().map(_tensors, patches[first : first + 512]):
                    transaction.put(key, value)


@functools.cache
def _readers() -> ProcessPoolExecutor:
    executor = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), importlib.import_module, ("rasterio",))
    for _ in range(2):  # each task that nobody is free for begins a process
        executor.submit(os.getpid)
    multiprocessing.util.Finalize(None, executor.shutdown, exitpriority=100)  # before its queues
    return executor


def _tensors(paths: list[Path]) -> tuple[bytes, bytes]:
    """Key and value of a patch."""
    import rasterio
    from safetensors.numpy import save

    tensors = {}
    for path in (path for path in paths if path.suffix == ".tif"):
        band, bands = 1, 1
        while band <= bands:
            with rasterio.open(path) as source:
                tensors[f"{path.stem}_{band}"] = source.read(band)
                bands = source.count
            band += 1
    return paths[0].stem.encode(), save(tensors)


def timed(way, patches: list[list[Path]], out: Path, workers: int) -> float:
    """Seconds of a peer with so many processes, after its imports."""
    os.sync()
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(workers + 1)
    processes = [context.Process(target=_run, args=(way, patches[i::workers], out / f"{i}", ready)) for i in range(workers)]
    for process in processes:
        process.start()
    ready.wait(300)
    start = time.perf_counter()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"{way.__name__} failed")
    return time.perf_counter() - start


def _run(way, patches, target, ready) -> None:
    if way is naive:
        import_tensorflow()
    way(patches[:1], target)
    ready.wait(300)
    way(patches, target)


def command(arguments: list[str]) -> tuple[float, list[float]]:
    """Seconds of the builder, and the largest memory in MB of its first process and of each that this one began."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    os.sync()
    start, peaks = time.perf_counter(), {}
    with subprocess.Popen(
        [sys.executable, "-m", "tfrecords_builder", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        watcher = threading.Thread(target=_watch, args=(process, peaks))
        watcher.start()
        errors = process.stderr.read()
        process.wait()
        seconds = time.perf_counter() - start
        watcher.join()
    if process.returncode:
        raise RuntimeError(errors.decode())
    return seconds, list(peaks.values())


def _watch(process, peaks: dict[int, float]) -> None:
    while process.poll() is None:
        for pid in _family(process.pid):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            if match := re.search(r"VmHWM:\s+(\d+) kB", status):
                peaks[pid] = int(match[1]) / 1e3
        time.sleep(0.05)


def _family(pid: int) -> list[int]:
    """A process and its descendants: workers are children of a child."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(other for child in children for other in _family(int(child)))]


def build(name: str, root: Path, out: Path, workers: int) -> tuple[float, list[float]]:
    # All patches in train, whose statistics are measured: the most work there is.
    arguments = ["--dataset", name, "--input", str(root), "--output", str(out), "--split_file=train=rest", "--shard_mb=32"]
    return command([*arguments, f"--workers={workers}", *FLAGS_OF.get(name, [])])


def verify(out: Path, workers: int) -> float:
    return command(["verify", str(out), f"--workers={workers}"])[0]


def compare(name: str, form: str, folder: Path) -> None:
    """Time every way on one data set in one form and print the ratios."""
    count = round(PATCHES[name][1] * FLAGS.scale)
    root = sources(folder, name, form, count)
    patches = _patches(root)
    ways = {"rasterio": (by_rasterio, 2), "tifffile": (by_tifffile, 2)}
    rico = RICO if shutil.which(RICO) else f"{RICO}'s method"
    if form == "plain":
        ways |= {"copy": (copy, 2), "copy 1": (copy, 1), "copy in kernel": (copy_in_kernel, 2), "join": (join, 2)}
        ways |= {"naive": (naive, 1)}
        if rico != RICO and name in OF_RICO and not _missing("lmdb", "safetensors"):
            ways[rico] = (by_band_into_lmdb, 1)  # which has two more
    elif _missing("imagecodecs"):
        del ways["tifffile"]
    seconds: dict[str, list[float]] = {}
    for _ in range(FLAGS.repeats):
        for way, (function, workers) in ways.items():
            # The slow ones on fewer patches, but not too few. Measured: naive 75/s over 300 of BigEarthNet, 90/s over 600.
            some = patches if function in (copy, copy_in_kernel, join) else patches[: max(len(patches) // 8, 2)]
            with tempfile.TemporaryDirectory(dir=folder) as out:
                seconds.setdefault(way, []).append(timed(function, some, Path(out), workers) / len(some))
        for workers in (1, 2):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                seconds.setdefault(f"build {workers}", []).append(build(name, root, Path(out), workers)[0] / count)
                seconds.setdefault(f"verify {workers}", []).append(verify(Path(out), workers) / count)
        if shutil.which(RICO) and form == "plain" and name in OF_RICO:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                os.sync()
                start = time.perf_counter()
                subprocess.run([RICO, *RICO_ARGUMENTS[name], str(root), "--target-dir", out], check=True)
                seconds.setdefault(RICO, []).append((time.perf_counter() - start) / count)
    speed = {way: 1 / statistics.median(values) for way, values in seconds.items()}
    print(f"\n{name}, {form}, {count} patches, patches/s: " + ", ".join(f"{way} {value:.0f}" for way, value in speed.items()))
    ours = speed["build 2"]
    if form == "plain":
        row("build / copy, 2 processes", ours / speed["copy"], OF_COPY[name])
        row("build / copy, 1 process", speed["build 1"] / speed["copy 1"])
        row("build / copy in the kernel, 2", ours / speed["copy in kernel"])
        row("build / bytes into one file, 2", ours / speed["join"])
        row("build / naive rasterio loop", ours / speed["naive"], 10)
        if name in OF_RICO:
            row(f"build / {rico}", ours / speed[rico] if rico in speed else None, OF_RICO[name])
    else:
        row("build / rasterio, 2 processes", ours / speed["rasterio"], 0.95)
    row("build / tifffile, 2 processes", ours / speed["tifffile"] if "tifffile" in speed else None, form != "plain" and 0.95)
    row("2 workers / 1", ours / speed["build 1"], 1.75 if form != "plain" else None)
    row("verify / build, 2 workers", speed["verify 2"] / ours, 1)
    row("verify / build, 1 worker", speed["verify 1"] / speed["build 1"], 1)


def _missing(*modules: str) -> list[str]:
    return [module for module in modules if not importlib.util.find_spec(module)]


def row(what: str, ratio: float | None, target: float | None = None) -> None:
    figure = "not installed" if ratio is None else f"{ratio:.2f}"
    judged = "" if ratio is None or not target else "pass" if ratio >= target else "MISS"
    print(f"  {what:32} {figure:>13}  {f'target {target:g}' if target else '':12} {judged}", flush=True)


def memory(folder: Path) -> None:
    """Peak memory of a build at two sizes: of its workers, and of the process that has the list of patches."""
    name, *sizes = GROWN
    firsts, workers = [], []
    for count in sizes:
        root = sources(folder, name, "plain", count)
        with tempfile.TemporaryDirectory(dir=folder) as out:
            first, *others = build(name, root, Path(out), 2)[1]
        firsts.append(first)
        workers.append(max(others))
    for what, peaks in {"the largest worker": workers, "the process that plans": firsts}.items():
        figures = ", ".join(f"{peak:.0f} MB at {size} patches" for peak, size in zip(peaks, sizes, strict=True))
        print(f"\nmemory of {what}: {figures}")
    row(f"{MEMORY_MB} MB / peak", MEMORY_MB / max(workers + firsts), 1)
    row(f"{GROWTH:g} / growth of workers", GROWTH / (workers[1] / workers[0]), 1)


def main(_) -> None:
    temporary = None if FLAGS.data else tempfile.TemporaryDirectory()
    folder = Path(FLAGS.data or temporary.name)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in FLAGS.datasets:
        for form in FLAGS.forms:
            compare(name, form, folder)
    if GROWN[0] in FLAGS.datasets and "plain" in FLAGS.forms:
        memory(folder)
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    app.run(main)
