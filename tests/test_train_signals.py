"""Runs that are told to end, or killed, and the same command once more."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_records import history, saved, settings, write_records

from tfrs import checkpoints, registry, train
from tfrs.termination import Terminated

ROOT = Path(__file__).parents[1]
RANDOM = {"augment": ("dihedral", "noise:0.2"), "dropout": 0.4, "schedule": "cosine", "optimizer": "adamw", "ema": 0.9}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=20, val=9, test=11)


def assert_same(folder, expected):
    """Weights, moving averages, optimizer, best score and seeds of the last checkpoint, and the history; to the last bit."""
    left, right = saved(folder), saved(expected)
    assert left.keys() == right.keys() and len(left) > 10
    for name in left:
        if "save_counter" not in name:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    assert history(folder) == history(expected)
    assert json.loads((folder / "report.json").read_text()) == json.loads((expected / "report.json").read_text())


def told(monkeypatch, owner, name, at):
    """Send this process SIGTERM before the `at`-th call of a function."""
    calls, real = [], getattr(owner, name)

    def call(*arguments, **options):
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, call)


def test_sigterm_saves_at_the_next_step_and_the_same_call_goes_on_there(records, tmp_path, monkeypatch, capsys):
    """In the first step, while scoring, in the second step of an epoch, and at the end of one; three steps an epoch."""
    monkeypatch.setitem(registry.MODELS, "tiny", "small_records:encoder")
    experiment = settings(records, tmp_path / "run", **RANDOM)
    for owner, name, at, place in [
        (tf.profiler.experimental, "Trace", 1, "epoch 0 and step 1 of 3 of the next"),
        (train, "share_batch_statistics", 1, "epoch 0 and step 3 of 3 of the next"),
        (tf.profiler.experimental, "Trace", 2, "epoch 1 and step 2 of 3 of the next"),
        (checkpoints, "begin_epoch", 1, "epoch 2"),
    ]:
        message = f"SIGTERM: the state after {place} is saved; run the same command again to continue$"
        with monkeypatch.context() as patch, pytest.raises(Terminated, match=message):
            told(patch, owner, name, at)
            train.run(experiment)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    train.run(experiment)
    train.run(settings(records, tmp_path / "straight", **RANDOM))
    assert_same(tmp_path / "run", tmp_path / "straight")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("continuing")]
    assert lines[0] == "continuing after epoch 0 and step 1 of 3 of the next" and len(lines) == 4
    assert lines[2].startswith("continuing after epoch 1 and step 2 of 3 of the next (best average_f1 0.")


# Forked before TensorFlow starts its threads, so that it is imported once.
KILLS = """
import dataclasses, os, random, signal, sys, time
from pathlib import Path
from tensorflow.python.framework.config import is_op_determinism_enabled
from tfrs import registry, train
from tfrs.experiment import Experiment

registry.MODELS["tiny"] = "small_records:encoder"
experiment = Experiment.from_flags(sys.stdin.read())


def start(folder):
    if pid := os.fork():
        return pid
    try:
        train.run(dataclasses.replace(experiment, run_dir=folder))
        print("deterministic:", is_op_determinism_enabled(), flush=True)
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def saves():
    return max((int(path.stem.split("-")[1]) for path in Path("killed/checkpoints").glob("state-*.index")), default=0)


assert os.waitpid(start("straight"), 0)[1] == 0
rng = random.Random(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    pid, enough = start("killed"), saves() + rng.randint(1, 3)
    while saves() < enough and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    print("status", os.waitpid(pid, 0)[1], "after", saves(), "of 9 saves")
assert os.waitpid(start("killed"), 0)[1] == 0
"""


def run_twice(experiment, folder, kills):
    """In processes of their own: without a break, and killed so often before it is let to the end; what they printed."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-c", KILLS, "0", str(kills)]
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 400}
    done = subprocess.run(command, input=experiment.to_flags(), check=False, **options)
    assert done.returncode == 0, done.stderr
    assert_same(folder / "killed", folder / "straight")
    return done.stdout


def test_run_killed_at_random_moments_ends_as_one_that_was_not(records, tmp_path):
    """Told by the number of states saved so far, drawn from a seed, and some milliseconds after it."""
    experiment = settings(records, "", batch_size=4, save_every_steps=2, steps_per_execution=3, **RANDOM)
    printed = run_twice(experiment, tmp_path, kills=2)
    assert printed.count("continuing after epoch") == 2 and printed.count("status 9") == 2


def test_deterministic_run_gives_the_same_bits_again(records, tmp_path):
    printed = run_twice(settings(records, "", deterministic=True, epochs=2, **RANDOM), tmp_path, kills=0)
    assert "continuing" not in printed and printed.count("deterministic: True") == 2
