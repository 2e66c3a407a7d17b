import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tfrecords_builder.plan import plan
from tfrs.datasets.eurosat import EuroSat

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

POOL = """
import time
from tfrecords_builder import local
from tfrs import command, termination

def main(_):
    with local.pool(2) as executor:
        executor.submit(int).result()
        print("begun", flush=True)
        for future in [executor.submit(time.sleep, 60) for _ in range(9)]:
            future.result()

with termination.immediate():
    command.run(main, "")
"""


def begin(command):
    """A process in a session of its own."""
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def start(root, out, workers):
    """The command itself, 21 shards of one or two patches."""
    command = [sys.executable, "-m", "tfrecords_builder", "--dataset=eurosat", f"--input={root}", f"--output={out}"]
    return begin([*command, "--shard_mb=0.2", f"--workers={workers}"])


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
        wait_for_the_end(process.pid)
        left = contents(tmp_path / "out")
        if "eurosat/1.0.0/manifest.json" in left:  # which says that all is there, also where the end came just after it
            assert {name: content for name, content in left.items() if "/.build/" not in name} == sound
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


def signalled(process, numbers, *, group):
    """Status and messages of a process that gets signals, alone or, as from a terminal, with its workers; none is left."""
    for number in numbers:
        (os.killpg if group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=30)
    wait_for_the_end(process.pid)
    return process.returncode, said


def wait_for_the_end(session):
    """Until no process of a session is there; the last ones watch over semaphores and workers."""
    until = time.monotonic() + 30
    while any(state != "Z" and of == str(session) for state, _, _, of, *_ in stats()):
        assert time.monotonic() < until
        time.sleep(0.01)


def stats():
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            yield path.read_text().rsplit(")")[1].split()


TERM, INT = signal.SIGTERM, signal.SIGINT
SAID = {
    TERM: (143, "error: SIGTERM: stopped; run the same command again to continue\n"),
    INT: (130, "error: interrupted; run the same command again to continue\n"),
}


@pytest.mark.parametrize(
    ("workers", "numbers", "group"),
    [(1, [TERM], False), (2, [TERM, TERM], True), (2, [INT], False), (2, [INT], True)],
)
def test_a_build_that_is_told_to_stop_leaves_nothing_unfinished(eurosat_tree, tmp_path, workers, numbers, group):
    """While one shard waits for a patch, a pipe into which nobody writes."""
    root = shutil.copytree(eurosat_tree[0], tmp_path / "source")
    key = plan(EuroSat(), root)["train"][1]
    path = root / "EuroSAT_MS" / key.split("_")[0] / f"{key}.tif"
    path.unlink()
    os.mkfifo(path)
    process = start(root, tmp_path / "out", workers)
    while process.poll() is None and not list(tmp_path.glob("out/*/*/*-train.tfrecord-00000-of-00017.*.tmp")):
        time.sleep(0.001)
    assert signalled(process, numbers, group=group) == SAID[numbers[0]]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_worker_that_begins_is_not_broken_off():
    """By a signal after it was asked for, and before it was told what to do, that another thread could get."""
    asked = "threading.Thread(target=signal.sigwait, args=([signal.SIGUSR1],), daemon=True).start()\n"
    asked += "connect = forkserver.connect_to_new_process\n"
    asked += "forkserver.connect_to_new_process = lambda fds: (connect(fds), os.kill(os.getpid(), signal.SIGTERM))[0]\n"
    process = begin(
        [sys.executable, "-c", f"import os, signal, threading\nfrom multiprocessing import forkserver\n{asked}{POOL}"]
    )
    assert signalled(process, [], group=False) == SAID[TERM]


@pytest.mark.parametrize("number", [TERM, signal.SIGKILL])
def test_workers_end_at_once(number):
    """Those of a build and of `verify`, whatever they do."""
    process = begin([sys.executable, "-c", POOL])
    assert process.stdout.readline() == "begun\n"
    status, said = signalled(process, [number], group=False)
    assert (status, said) == SAID[TERM] or status == -number == -signal.SIGKILL
