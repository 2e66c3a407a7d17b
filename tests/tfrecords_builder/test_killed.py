import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

KILLS = 4
# Builds in forked processes, of which each kills itself one operation on a file later than the one before.
EVERY_STEP = """
import os, shutil, signal, sys
from pathlib import Path
from tfrecords_builder.plan import plan
from tfrecords_builder.writer import write
from tfrs.datasets.eurosat import EuroSat

root, base = map(Path, sys.argv[1:])
splits, out = {"train": plan(EuroSat(), root)["train"][:1]}, base / "out"

def build(folder):
    return write(EuroSat(), root, folder, splits)

def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

def kill_at(step):
    seen = []
    def hook(event, arguments):
        if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
            event == "open" and str(arguments[0]).startswith(str(out))
        ):
            seen.append(event)
            if len(seen) == step:
                if event == "open":  # and nothing written yet
                    Path(arguments[0]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

build(base / "sound")
sound, step, finished = contents(base / "sound"), 0, False
while not finished:
    step += 1
    shutil.rmtree(out, ignore_errors=True)
    process = os.fork()
    if not process:
        kill_at(step)
        build(out)
        os._exit(0)
    finished = os.waitpid(process, 0)[1] == 0
    build(out)
    remains = {path.name for path in out.rglob("*")} - {path.name for path in (base / "sound").rglob("*")}
    if contents(out) != sound or (remains and remains != {".build"}):
        sys.exit(f"differs after step {step}: {remains}")
print(step)
"""


def start(root, out, workers):
    """The command itself, 21 shards of one or two patches, in a process group of its own."""
    command = [sys.executable, "-m", "tfrecords_builder", "--dataset=eurosat", f"--input={root}", f"--output={out}"]
    command += ["--shard_mb=0.2", f"--workers={workers}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(out):
    return sum(len(names) for _, _, names in os.walk(out))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_build_that_is_killed_again_and_again_leaves_the_same_bytes(eurosat_tree, tmp_path):
    """At moments drawn from a seed, told by the number of files written so far and some milliseconds after it.

    Only the parent is killed: its workers notice by themselves.
    """
    root, rng, killed = eurosat_tree[0], np.random.default_rng(0), []
    done = start(root, tmp_path / "sound", 1)
    assert done.wait() == 0, done.communicate()
    sound = contents(tmp_path / "sound")
    assert len([name for name in sound if ".tfrecord-" in name]) == 21

    for attempt in range(KILLS):
        present, more = files(tmp_path / "out"), int(rng.integers(1, 14))
        process = start(root, tmp_path / "out", 1 + attempt % 2)
        while process.poll() is None and files(tmp_path / "out") < present + more:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.004))
        process.send_signal(signal.SIGKILL)
        killed.append(process.wait() == -signal.SIGKILL)
        assert not list(tmp_path.glob("out/*/*/manifest.json")) or not killed[-1]
    assert sum(killed) >= KILLS / 2, "the others had finished before"

    again = start(root, tmp_path / "out", 1)
    assert again.wait() == 0, again.communicate()
    assert contents(tmp_path / "out") == sound


def test_a_build_goes_on_after_a_power_failure(eurosat_tree, tmp_path):
    """Which leaves files that are there under their names but empty, as nothing forces them to the disk one by one."""
    root = eurosat_tree[0]
    assert start(root, tmp_path / "sound", 1).wait() == 0
    process = start(root, tmp_path / "out", 1)
    while process.poll() is None and files(tmp_path / "out") < 12:
        time.sleep(0.0005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    (folder,) = tmp_path.glob("out/*/*/.build")
    results, tables = sorted(folder.glob("*-of-*.json")), sorted(folder.glob("*-of-*.npy"))
    results[0].write_bytes(b"")
    tables[1].write_bytes(b"")
    spec = (folder / "spec.json").read_bytes()
    (folder / "spec.json").write_bytes(b"")
    refused = start(root, tmp_path / "out", 1)
    assert "spec.json: damaged" in refused.communicate()[1] and refused.returncode == 1
    (folder / "spec.json").write_bytes(spec)
    again = start(root, tmp_path / "out", 1)
    assert again.wait() == 0, again.communicate()
    assert contents(tmp_path / "out") == contents(tmp_path / "sound")


def test_a_build_may_be_killed_before_any_operation_on_a_file(eurosat_tree, tmp_path):
    command = [sys.executable, "-c", EVERY_STEP, str(eurosat_tree[0]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
