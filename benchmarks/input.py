"""Reading patches into batches: load() against peers and limits, on the same patches in one run: python -m benchmarks.input

Simulated patches; uint16 batches; page cache warm; two workers each. Every way runs as it is and with dihedral augmentation by
its own means, one way after the other, and the median of the repeats counts. Targets are for augmented patches on both sides.
They are ratios, because absolute figures drift between machines; a loaded machine blurs them too, so its load is printed.
"""

import contextlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from absl import app, flags

from benchmarks import peers

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "data", None, "folder for the simulated files and records, kept for the next run (default: a temporary one)"
)
flags.DEFINE_float("scale", 1, "so many times the usual number of records")
flags.DEFINE_integer("repeats", 3, "runs of each way, of which the median counts", lower_bound=2)
flags.DEFINE_float("seconds", 1.5, "length of a run")
flags.DEFINE_list("inputs", [], "sets and inputs to compare, e.g. sen12ms/s2_rgb,eurosat, and opening (default: all)")
flags.DEFINE_list("ways", [], "ways to compare with load (default: all)")

ALL_BANDS = "s2:B01,B02,B03,B04,B05,B06,B07,B08,B8A,B09,B11,B12+s1:VV,VH"


@dataclass(frozen=True)
class Row:
    """An input of a data set, and how many times as fast as each of three peers `load` shall be, with augmentation."""

    dataset: str
    inputs: str
    rasterio: float | None = None
    parsed: float | None = None
    memmap: float | None = None

    @property
    def names(self) -> set[str]:
        """By which `--inputs` takes it."""
        return {self.dataset, f"{self.dataset}/{self.inputs}"}


ROWS = (
    Row("sen12ms", "s2_rgb", 12, 3, 0.6),
    Row("sen12ms", "s2_ms", 10, 2, 0.6),
    Row("sen12ms", "s1s2", 10, 2, 0.6),
    Row("sen12ms", "s2_all"),
    Row("bigearthnet", ALL_BANDS, 30, 3, 0.6),
    Row("eurosat", "s2_all", 15, 3, 0.5),
    Row("multisenge", "irrg", 10, 4, 0.6),
    Row("multisenge", "irrg_index"),
)
flags.register_validator(
    "inputs",
    lambda names: set(names) <= {"opening"}.union(*(row.names for row in ROWS)),
    f"choose from opening, {', '.join(dict.fromkeys(row.dataset for row in ROWS))}, or an input of one, e.g. sen12ms/s2_rgb",
)
flags.register_validator("ways", lambda names: set(names) <= peers.WAYS.keys(), f"choose from {', '.join(peers.WAYS)}")
# Simulated patches, how often each is in the records, records in a batch.
SIZES = {"sen12ms": (64, 8, 16), "bigearthnet": (320, 6, 32), "eurosat": (1000, 6, 64), "multisenge": (32, 12, 16)}
OURS, THREE, ALL, OF_ALL = "load", ("sen12ms", "s2_rgb"), ("sen12ms", "s2_all"), 0.4
OPENED, SECONDS, MEGABYTES = 590_326, 2, 300


def records_of(folder: Path, name: str) -> tuple[Path, Path]:
    """Simulated files of a data set, and records of them in which each patch stands several times under other keys."""
    from tfrecords_builder.writer import write
    from tfrs import registry

    patches, times, _ = SIZES[name]
    times = max(1, round(times * FLAGS.scale))
    kind, source, out = registry.dataset(name), folder / f"{name}-{patches}", folder / f"{name}-{patches}-{times}"
    if not source.exists():
        kind().synthesize(folder / "tmp", patches, 0)
        (folder / "tmp").rename(source)
    if not out.exists():

        class Repeated(kind):
            def read(self, root, key):
                return {**super().read(root, key.partition("@")[0]), "key": key}

        keys = sorted(kind().keys(source))
        write(Repeated(), source, folder / "tmp", {"train": [f"{key}@{n}" for n in range(times) for key in keys]}, shard_mb=100)
        peers.copy_records(folder / "tmp", folder / "tmp" / "copies")
        (folder / "tmp").rename(out)
    return source, out


def job_of(row: Row, folder: Path) -> peers.Job:
    from tfrs.records import Records
    from tfrs.sensors import resolve, select

    source, out = records_of(folder, row.dataset)
    records = Records(out / row.dataset)
    chosen = select(records.sensors, resolve(row.inputs, records.sensors))
    bands = {name: records.sensors[name].index(sensor.bands) for name, sensor in chosen.items()}
    kinds = {field.kind for field in records.schema.fields.values()}
    files = tuple(
        geotiffs(row.dataset, source, key.partition(b"@")[0].decode(), bands) for key in records.index("train")["key"]
    )
    task = "single_label" if "label" in kinds else "multi_label"
    return peers.Job(records.directory, out / "copies", files, row.inputs, bands, task, SIZES[row.dataset][2])


def geotiffs(name: str, source: Path, key: str, bands: dict[str, tuple[int, ...]]) -> tuple:
    """Files of a patch that hold the bands: (path, numbers of the bands, size in pixels)."""
    from tfrs.datasets import bigearthnet, multisenge_names, sen12ms

    numbers = {sensor: tuple(place + 1 for place in places) for sensor, places in bands.items()}
    if name == "sen12ms":
        return tuple((sen12ms.paths(source, key)[sensor], number, 256) for sensor, number in numbers.items())
    if name == "eurosat":
        return ((f"{source}/EuroSAT_MS/{key.partition('_')[0]}/{key}.tif", numbers["s2"], 64),)
    if name == "multisenge":
        patch, day = multisenge_names.parse_key(key)
        return ((str(multisenge_names.read_patch(source, patch).path(source, "s2", day)), numbers["s2"], 256),)
    folder = source / bigearthnet.S2_FOLDER / key
    tile = bigearthnet.Metadata(folder).tile()
    radar = bigearthnet.BigEarthNet()._partner(source, key, tile).folder
    return tuple((str(path), (1,), 120) for path in [*sorted(folder.glob("*.tif")), *sorted(radar.glob("*.tif"))])


def compare(row: Row, folder: Path) -> peers.Job:
    """Print the table of all ways; returns what they read."""
    job = job_of(row, folder)
    for part in records_of(folder, row.dataset):
        warm(part)
    speeds: dict[str, dict[bool, float]] = {}
    found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for way in dict.fromkeys([OURS, *(FLAGS.ways or peers.WAYS)]):
        if absent := peers.missing(way):
            print(f"{way}: {', '.join(absent)} not installed")
        else:
            found |= {(way, dihedral): runs for dihedral, runs in measured(way, job).items()}
    for (way, dihedral), runs in found.items():
        speeds.setdefault(way, {})[dihedral] = statistics.median(patches for patches, _ in runs)
    targets = {"rasterio DataLoader": row.rasterio, "TFRecordDataset + parse": row.parsed, "np.memmap": row.memmap}
    name = row.inputs if row.inputs != ALL_BANDS else "12 bands + S1"
    print(f"\n{row.dataset}, {name}, batches of {job.batch}")
    print(f"  {'':24} {'patches/s':>10} {OURS + ' / it':>10} {'dihedral':>10} {OURS + ' / it':>10}")
    for way, speed in speeds.items():
        columns = [f"{value:10,.0f} {speeds[OURS][dihedral] / value:10.2f}" for dihedral, value in speed.items()]
        judgement = judged(speeds[OURS][True] / speed[True], targets.get(way)) if True in speed else ""
        print(f"  {way:24} {' '.join(columns)}{judgement}", flush=True)
    first, *_, last = (memory for _, memory in found[OURS, True])
    print(f"  memory of {OURS}: {first:.0f} MB after the first run, {last:.0f} MB after the last")
    return job


def warm(folder: Path) -> None:
    """Read every byte once, so that no way waits for the disk."""
    buffer = bytearray(1 << 20)
    for path in filter(Path.is_file, folder.rglob("*")):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def measured(way: str, job: peers.Job) -> dict[bool, list[tuple[float, float]]]:
    """Patches/s and memory of the runs without and with augmentation; nothing of a way that fails."""
    found: dict[bool, list[tuple[float, float]]] = {}
    try:
        with served(way, job) as run:
            for _ in range(FLAGS.repeats):
                for dihedral in (False, True)[: 1 + (way not in peers.LIMITS)]:
                    found.setdefault(dihedral, []).append(run(dihedral))
    except EOFError:
        print(f"{way}: failed, as told above")
        return {}
    return found


@contextlib.contextmanager
def served(way: str, job: peers.Job) -> Iterator[Callable[[bool], tuple[float, float]]]:
    """Patches/s and memory of one run, with augmentation or without, in a process of its own, which rests between runs."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=peers.serve, args=(way, job, there))
    process.start()
    there.close()

    def run(dihedral: bool) -> tuple[float, float]:
        here.send((FLAGS.seconds, dihedral))
        return here.recv()

    try:
        here.recv()
        yield run
    finally:
        here.close()  # which ends it
        process.join()


def cost(three: peers.Job, all_bands: peers.Job) -> None:
    """Time of a patch's three bands against that of all, measured in turn: minutes apart, the machine's mood would decide."""
    with served(OURS, three) as run_three, served(OURS, all_bands) as run_all:
        speeds = [(run_three(True)[0], run_all(True)[0]) for _ in range(FLAGS.repeats)]
    few, many = map(statistics.median, zip(*speeds, strict=True))
    print(f"\ncost of 3 of 13 bands / all 13: {many / few:.2f}  target at most {OF_ALL} {verdict(many / few <= OF_ALL)}")


def judged(ratio: float, target: float | None) -> str:
    return f"  target {target:g} {verdict(ratio >= target)}" if target else ""


def verdict(reached: bool) -> str:
    return "pass" if reached else "MISS"


def opening(folder: Path) -> None:
    """Time and memory of opening records with an index of BigEarthNet's size, in a process of its own."""
    import numpy as np

    from tfrs.record_index import index_name
    from tfrs.records import Records

    _, out = records_of(folder, "bigearthnet")
    records = Records(out / "bigearthnet")
    large = folder / f"opened-{OPENED}"
    if not large.exists():
        large.mkdir()
        table = np.resize(records.index("train"), OPENED)
        table["shard"] = 0  # the only one that is stated below
        np.save(large / index_name("train"), table)
        content = records.manifest["splits"]["train"]
        shard = {**content["shards"][0], "records": OPENED}
        splits = {"train": {**content, "records": OPENED, "shards": [shard]}}
        (large / "manifest.json").write_text(json.dumps({**records.manifest, "splits": splits}))
    script = (
        "import resource, sys, time, numpy, tfrs.records; start = time.perf_counter();"
        "memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3; before = memory();"
        "records = tfrs.records.Records(sys.argv[1]); table = records.index('train'); {};"
        "print(time.perf_counter() - start, memory() - before)"
    )
    order = "numpy.random.default_rng(0).permutation(len(table))"
    for what, statement in (
        ("opened and shuffled", order),
        ("all keys and labels read", "table['key'].copy(), table['labels'].copy()"),
    ):
        command = [sys.executable, "-c", script.format(statement), str(large)]
        seconds, megabytes = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        print(f"\n{OPENED:,} records {what}: {seconds:.2f} s, {megabytes:.0f} MB")
        print(
            f"  at most {SECONDS} s: {verdict(seconds <= SECONDS)}; at most {MEGABYTES} MB: {verdict(megabytes <= MEGABYTES)}"
        )


def main(_) -> None:
    temporary = None if FLAGS.data else tempfile.TemporaryDirectory()
    folder = Path(FLAGS.data or temporary.name)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    chosen = [row for row in ROWS if not FLAGS.inputs or row.names & set(FLAGS.inputs)]
    jobs = {(row.dataset, row.inputs): compare(row, folder) for row in chosen}
    if {THREE, ALL} <= jobs.keys():
        cost(jobs[THREE], jobs[ALL])
    if not FLAGS.inputs or "opening" in FLAGS.inputs:
        opening(folder)
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    app.run(main)
