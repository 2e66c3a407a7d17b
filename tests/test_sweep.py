"""A grid of runs, in most tests by commands that only write scores; one trains in earnest, on patches of 16 pixels."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_records import write_records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfrs import sweep
from tfrs.errors import UserError
from tfrs.termination import Terminated

FIXED = {"model": "resnet_small", "epochs": "1"}
GRID = {"input": ["s1", "s2_rgb"], "seed": ["0", "1"]}
SCORES = {("s1", "0"): 0.5, ("s1", "1"): 0.7, ("s2_rgb", "0"): 0.9, ("s2_rgb", "1"): 0.6}


@pytest.fixture
def trained(monkeypatch):
    """The commands that trained a run; one fails as long as its input and seed are in the set."""
    commands, failing = [], set()

    def train(command):
        flags = dict(text.removeprefix("--").split("=", 1) for text in command[3:])
        commands.append(flags)
        values = flags["input"], flags["seed"]
        if values not in failing:
            folder = Path(flags["run_dir"])
            (folder / "export").mkdir(parents=True)
            (folder / "report.json").write_text(json.dumps({"average_f1": SCORES[values], "patches": 8}))
        return popen([sys.executable, "-c", f"raise SystemExit({int(values in failing)})"])

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", train)
    return commands, failing


def test_every_combination_is_trained_with_what_all_have_in_common(trained, tmp_path):
    sweep.run(tmp_path, "classify", FIXED, GRID)
    assert [(flags["input"], flags["seed"]) for flags in trained[0]] == list(SCORES)
    assert all(FIXED.items() <= flags.items() for flags in trained[0])
    assert len({flags["run_dir"] for flags in trained[0]}) == 4


def test_table_has_the_scores_of_the_reports(trained, tmp_path):
    text = sweep.run(tmp_path, "classify", FIXED, GRID)
    assert text.splitlines()[2] == "| s1 | 2 | 60.0 ± 14.1 (50.0 to 70.0) |" and "| s2_rgb | 2 | 75.0 ± 21.2 (" in text
    rows = {row["input"]: row for row in csv.DictReader((tmp_path / "sweep.csv").open())}
    assert float(rows["s2_rgb"]["average_f1_mean"]) == pytest.approx(0.75)
    assert float(rows["s2_rgb"]["average_f1_std"]) == pytest.approx(np.std([0.9, 0.6], ddof=1))
    assert (tmp_path / "sweep.md").read_text() == text


def test_a_failed_run_is_named_and_the_same_command_trains_only_what_is_missing(trained, tmp_path):
    commands, failing = trained
    failing.add(("s1", "1"))
    with pytest.raises(UserError, match=r"1 of 4 runs failed, .*: input=s1-seed=1\. The same command"):
        sweep.run(tmp_path, "classify", FIXED, GRID)
    assert len(commands) == 4 and "| s1 | 1 | 50.0 |" in (tmp_path / "sweep.md").read_text()
    failing.clear()
    assert "| s1 | 2 |" in sweep.run(tmp_path, "classify", FIXED, GRID)
    assert len(commands) == 5 and commands[-1]["seed"] == "1"


@pytest.mark.parametrize("told", ["kill -TERM $PPID", "kill -TERM $$", "trap '' TERM; kill -TERM $PPID; exit 1"])
def test_sigterm_ends_the_sweep_and_no_run_has_failed(tmp_path, monkeypatch, told):
    """It comes to the sweep, which passes it on; to the run; or to a run that has an error just then."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ntrap 'exit 143' TERM\n{told}\nsleep 20 & wait\n")
    program.chmod(0o755)
    with (
        monkeypatch.context() as patch,
        pytest.raises(Terminated, match=r"^SIGTERM: .*input=s1-seed=0 is interrupted; run the"),
    ):
        patch.setattr(sys, "executable", str(program))
        sweep.run(tmp_path / "sweep", "classify", FIXED, GRID)
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["sweep.json"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_several_processes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"in one process: leave out --strategy=multi_worker"):
        sweep.run(tmp_path, "classify", {"strategy": "multi_worker"}, GRID)
    with pytest.raises(UserError, match=r"leave out multi_worker"):
        sweep.parse_grid(["strategy=one_device,multi_worker"])


def test_other_settings_need_another_folder(trained, tmp_path):
    sweep.run(tmp_path, "classify", FIXED, GRID)
    with pytest.raises(UserError, match=r"epochs: 1 there, 2 asked for.*--run_dir"):
        sweep.run(tmp_path, "classify", FIXED | {"epochs": "2"}, GRID)


def test_command_trains_and_shows_in_tensorboard(tmp_path):
    records = write_records(tmp_path / "records", train=16, val=8, test=8)
    options = ["--model=resnet_small", "--epochs=1", "--batch_size=8", "--run_dir=sweep", "--grid=input=s1"]
    command = [sys.executable, "-m", "experiments.sweep", f"--records={records.directory}", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "sweep/input=s1"
    report = json.loads((run / "report.json").read_text())
    assert report["input"] == "s1" and f"| s1 | 1 | {100 * report['average_f1']:.1f} |" in done.stdout
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"batch_size" in content and b"resnet_small" in content
    (score,) = events.Tensors("final/average_f1")
    assert tf.make_ndarray(score.tensor_proto) == pytest.approx(report["average_f1"])


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["epoch=1"], "Did you mean 'epochs'"),
        (["epochs="], "give epochs=VALUE"),
        (["epochs=1,x"], "epochs takes no 'x'"),
        (["epochs=1,0"], "--epochs=0 is out of range"),
        (["epochs=1", "epochs=2"], "the setting stands twice"),
        (["epochs=1,1"], "a value stands twice"),
        ([], "nothing varies"),
    ],
)
def test_wrong_grids(specs, message):
    with pytest.raises(UserError, match=message):
        sweep.parse_grid(specs)


def test_grid(tmp_path):
    varied = sweep.parse_grid(['input="B04,B03",s1', "seed=0,1"])
    assert varied == {"input": ["B04,B03", "s1"], "seed": ["0", "1"]}
    runs = sweep.runs_of(tmp_path, varied)
    assert [tuple(run.values.values()) for run in runs] == [("B04,B03", "0"), ("B04,B03", "1"), ("s1", "0"), ("s1", "1")]
    assert len({run.folder for run in runs}) == 4
