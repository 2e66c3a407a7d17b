"""One small network, trained by one process, on two devices of one, and by two processes on localhost that find each other by
TF_CONFIG or by what SLURM sets. All are forked from a process that has TensorFlow imported, before it starts its threads.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_hosts import free_ports
from small_records import history, saved, settings, write_records

# The bands of s1s2 in its order of Sentinel-2.
SENTINEL2_MS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
ROOT = Path(__file__).parents[1]
STEPS, EPOCHS = 3, 2

PROCESSES = """
import dataclasses, json, os, signal, sys
from pathlib import Path
import tensorflow as tf
from tfrs import checkpoints, command, evaluate, registry, steps, train
from tfrs.experiment import Experiment

registry.MODELS["plain"] = "small_records:plain_encoder"
experiment = Experiment.from_flags(sys.stdin.read())


def noted(path):
    # Sums of the pixels, which no turn changes, of all samples that count; a line per batch.
    def note(images, weight):
        with open(path, "a") as file:
            print(*(image.sum(dtype=int) for image in images[weight > 0]), file=file)
        return weight

    def distribute(strategy, dataset):
        def pass_on(images, target, weight):
            return images, target, tf.ensure_shape(tf.numpy_function(note, [images["s2"], weight], tf.float32), weight.shape)

        return steps.distribute(strategy, dataset.map(pass_on))

    return distribute


def told(number, name):
    # A signal after so many calls that count steps.
    left, real = [None] * number, checkpoints.advance

    def advance(*arguments):
        real(*arguments)
        left.pop()
        if not left:
            os.kill(os.getpid(), getattr(signal, name))

    checkpoints.advance = advance


def start(folder, environment, output, told_by=None, split="", **changes):
    if pid := os.fork():
        return pid
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    train.distribute = noted(output + "-seen")
    if told_by:
        told(*told_by)
    sys.argv = ["train"]
    run = dataclasses.replace(experiment, run_dir=folder, **changes)
    try:
        command.run(lambda _: print(evaluate.run(Path(folder), split) if split else train.run(run)), "")
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)
    os._exit(0)


for together in json.loads(sys.argv[1]):
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in [start(**one) for one in together]]))
"""


def tf_config(ports, index):
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}


def slurm(port, index):
    step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_JOB_ID": str(port - 10_000)}
    return {**step, "SLURM_NODEID": "0", "SLURM_LOCALID": str(index), "SLURM_PROCID": str(index)}


def two(name, folder, environment, told=(None, None), **changes):
    """What `start` of `PROCESSES` takes for both processes; `told` are the signals that they give themselves."""
    return [
        {"folder": folder, "environment": environment(i), "output": f"{name}-{i}", "told_by": told[i], **changes}
        for i in range(2)
    ]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The second half of the last batch of train is empty, and that of val."""
    return write_records(tmp_path_factory.mktemp("records"), train=20, val=9, test=11)


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """The folder of all runs, and the statuses of their processes."""
    folder = tmp_path_factory.mktemp("runs")
    ports = free_ports(8)
    pairs, job = list(zip(ports[::2], ports[1::2], strict=True)), 20_000 + os.getpid() % 9_000
    experiment = settings(
        *(records, ""),
        **{"model": "plain", "epochs": EPOCHS, "learning_rate": 0.02, "augment": ("dihedral",), "schedule": "cosine"},
        **{"optimizer": "adamw", "clip_norm": 0.5, "ema": 0.5, "save_every_steps": 2, "steps_per_execution": 2},
    )
    several = {"strategy": "multi_worker"}
    plan = {
        "one": [{"folder": "one", "environment": {}, "output": "one-0", "strategy": "one_device"}],
        "devices": [{"folder": "devices", "environment": {}, "output": "devices-0", "cpu_devices": 2}],
        "scored": [{"folder": "devices", "environment": {}, "output": "scored-0", "split": "val"}],
        "two": two("two", "two", lambda i: tf_config(pairs[0], i), **several),
        "told": two("told", "broken", lambda i: slurm(job, i), (None, (1, "SIGTERM")), **several),
        "killed": two("killed", "broken", lambda i: tf_config(pairs[1], i), ((1, "SIGKILL"), None), **several),
        "again": two("again", "broken", lambda i: tf_config(pairs[2], i), **several),
        "other": two("other", "other", lambda i: tf_config(pairs[3], i), **several),
    }
    plan["other"][1]["seed"] = 7
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", PROCESSES, json.dumps(list(plan.values()))]
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 600}
    done = subprocess.run(command, input=experiment.to_flags(), check=False, **options)
    assert done.returncode == 0, done.stderr
    return folder, dict(zip(plan, map(json.loads, done.stdout.splitlines()), strict=True))


def printed(trained, name):
    return (trained[0] / name).read_text()


def test_processes_end_together(trained):
    """Only the second one is told to end, and only the first one killed; one is given another seed."""
    folder, statuses = trained
    assert statuses == {
        **{"one": [0], "devices": [0], "scored": [0], "two": [0, 0], "again": [0, 0]},
        **{"told": [143, 143], "killed": [-9, 1], "other": [1, 1]},
    }, "".join(path.read_text() for path in sorted(folder.glob("*-[01]")))
    for index in (0, 1):
        said = printed(trained, f"told-{index}")
        assert "SIGTERM: the state after epoch 0 and step 2 of 3 of the next is saved; run the same command again" in said
        said = printed(trained, f"other-{index}")
        assert "error: process 2 of 2 has other flags than the first one; make them the same" in said
    assert "error: another process of the training has ended or cannot be reached; its own" in printed(trained, "killed-1")
    assert not (folder / "other").exists()


@pytest.mark.parametrize("name", ["devices", "two"])
def test_devices_and_processes_learn_and_score_as_one_does(trained, name):
    folder = trained[0]
    left, right = saved(folder / name), saved(folder / "one")
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_allclose(left[key], right[key], atol=1e-6, err_msg=key)
    for rows in zip(history(folder / name), history(folder / "one"), strict=True):
        assert rows[0] == pytest.approx(rows[1], rel=1e-5)
    reports = [json.loads((folder / run / "report.json").read_text()) for run in (name, "one")]
    assert reports[0]["confusion_matrix"] == reports[1]["confusion_matrix"] and reports[0]["overall_accuracy"] > 0.3


def test_run_of_two_devices_is_scored_by_one(trained):
    """Its best epoch, as it was scored in training."""
    best = max(row["val_average_f1"] for row in history(trained[0] / "devices"))
    report = json.loads((trained[0] / "devices" / "report-val.json").read_text())
    assert report["average_f1"] == pytest.approx(best) and "on 2 device(s)" in printed(trained, "devices-0")


def test_interrupted_processes_end_as_if_nothing_had_happened(trained):
    """Told to end in the first epoch, killed later in it, and started once more; to the last bit."""
    folder = trained[0]
    left, right = saved(folder / "broken"), saved(folder / "two")
    for key in right:
        if "save_counter" not in key:
            np.testing.assert_array_equal(left[key], right[key], err_msg=key)
    assert history(folder / "broken") == history(folder / "two")
    assert (folder / "broken" / "report.json").read_text() == (folder / "two" / "report.json").read_text()
    assert "continuing after epoch 0 and step 2 of 3" in printed(trained, "killed-0")
    assert "continuing after epoch" in printed(trained, "again-0")


def test_every_record_comes_once_an_epoch_to_one_process(trained, records):
    lines = [printed(trained, f"two-{index}-seen").splitlines()[: STEPS * EPOCHS] for index in (0, 1)]
    bands = records.sensors["s2"].index(SENTINEL2_MS)
    expected = sorted(int(sample["s2"][list(bands)].sum(dtype=int)) for sample in records.samples("train"))
    assert len(set(expected)) == len(expected) == 20
    for epoch in range(EPOCHS):
        parts = [[line.split() for line in part[STEPS * epoch : STEPS * (epoch + 1)]] for part in lines]
        assert [[len(batch) for batch in part] for part in parts] == [[4, 4, 4], [4, 4, 0]]
        assert sorted(int(value) for part in parts for batch in part for value in batch) == expected


def test_only_the_first_process_writes_and_prints(trained):
    folder = trained[0]
    names = [
        sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if "tfevents" not in path.name)
        for run in (folder / "two", folder / "one")
    ]
    assert names[0] == names[1] and len(list((folder / "two").rglob("*tfevents*"))) == 2
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"one", "devices", "two", "broken"}
    assert "epoch 2/2" in printed(trained, "two-0") and printed(trained, "two-1").splitlines()[-1] == "{}"
    assert "epoch" not in printed(trained, "two-1")
