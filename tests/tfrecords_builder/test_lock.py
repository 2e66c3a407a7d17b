import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from tfrecords_builder import lock
from tfrecords_builder.plan import plan
from tfrecords_builder.writer import write
from tfrs.datasets.eurosat import EuroSat
from tfrs.errors import UserError

HOLDER = """
import sys, pathlib
from tfrecords_builder import lock
with lock.hold(pathlib.Path(sys.argv[1]), *sys.argv[2:]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "records" / ".build").mkdir(parents=True)
    return tmp_path / "records" / ".build"


@pytest.fixture
def holder(folder):
    """Start a process that holds the folder, for the whole build or for a task."""
    started = []

    def start(*task):
        command = [sys.executable, "-c", HOLDER, str(folder), *task]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refused(folder, *task):
    with pytest.raises(UserError) as error, lock.hold(folder, *task):
        pass
    return str(error.value)


def test_owner_is_named_with_machine_and_what_to_do_if_it_is_lost(folder, holder):
    process = holder()
    for task in ([], ["3-of-8"]):
        assert re.fullmatch(
            rf"{folder.parent}: another build is writing here \(process {process.pid} on {socket.gethostname()} since "
            rf"\d{{4}}-\d\d-\d\d \d\d:\d\d \S+; if that machine is lost, delete {folder}/lock\)",
            refused(folder, *task),
        )


def test_lock_of_a_killed_process_is_no_lock(folder, holder):
    process = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert f"process {process.pid} " in (folder / "lock").read_text()
    with lock.hold(folder):
        assert f"process {os.getpid()} " in (folder / "lock").read_text()


def test_tasks_of_a_build_stand_beside_each_other_and_keep_others_away(folder, holder):
    first, third = holder("0-of-8"), holder("3-of-8")
    with lock.hold(folder, "4-of-8"):
        pass
    assert f"(task 3-of-8, process {third.pid} on " in refused(folder, "3-of-8")
    said = refused(folder)
    assert f"(task 0-of-8, process {first.pid} on " in said
    assert f"; task 3-of-8, process {third.pid} on " in said
    assert "4-of-8" not in said
    for process in (first, third):
        process.communicate("")
    with lock.hold(folder):
        pass


def test_two_builds_at_once(eurosat_tree, tmp_path):
    root, dataset = eurosat_tree[0], EuroSat()
    folder = tmp_path / "eurosat" / "1.0.0" / ".build"
    folder.mkdir(parents=True)
    with lock.hold(folder):
        for overwrite in (False, True):
            with pytest.raises(UserError, match=r"eurosat/1\.0\.0: another build is writing here"):
                write(dataset, root, tmp_path, plan(dataset, root, limit=2), overwrite=overwrite)
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]
    assert write(dataset, root, tmp_path, plan(dataset, root, limit=2)).count("train") == 2


def test_file_system_without_locks_is_told(folder, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock.hold(folder), lock.turn(folder / "other"):
        pass
    assert capsys.readouterr().err == (
        f"warning: {folder}/lock: no locks here (No locks available); see that no other build writes there\n"
    )
