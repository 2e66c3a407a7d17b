"""A grid of runs through the real command; the runs are small, on patches of 16 pixels."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from small_records import write_records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfrs import sweep
from tfrs.errors import UserError

OPTIONS = (
    "--model=resnet_small",
    "--epochs=1",
    "--batch_size=8",
    "--run_dir=sweep",
    "--grid=input=s1",
    "--grid=seed=0,1",
)


def call(folder, *arguments, status=0):
    command = [sys.executable, "-m", "experiments.sweep", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two seeds; one run cannot be begun at first, as a file is in the place of its folder."""
    folder = tmp_path_factory.mktemp("sweep")
    records = write_records(folder / "records", train=16, val=8, test=8)
    (folder / "sweep").mkdir()
    blocked = folder / "sweep/input=s1-seed=0"
    blocked.write_text("")
    options = (f"--records={records.directory}", *OPTIONS)
    failed = call(folder, *options, status=1)
    blocked.unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("sweep/*/report.json")}
    return folder, options, failed, before, call(folder, *options)


def test_a_failed_run_is_named_and_the_others_go_on(swept):
    _, _, failed, before, _ = swept
    assert "1 of 2 runs failed" in failed.stderr and "input=s1-seed=0" in failed.stderr
    assert len(before) == 1


def test_same_command_trains_only_what_is_missing(swept):
    folder, _, _, before, _ = swept
    after = {path: path.stat().st_mtime_ns for path in folder.glob("sweep/*/report.json")}
    assert len(after) == 2 and before.items() < after.items()


def test_table_has_the_scores_of_the_reports(swept):
    folder, _, _, _, done = swept
    (row,) = csv.DictReader((folder / "sweep/sweep.csv").open())
    f1 = [json.loads((folder / f"sweep/input=s1-seed={seed}/report.json").read_text())["average_f1"] for seed in (0, 1)]
    assert float(row["average_f1_mean"]) == pytest.approx(np.mean(f1))
    assert float(row["average_f1_std"]) == pytest.approx(np.std(f1, ddof=1), abs=1e-12)
    assert f"| s1 | 2 | {100 * np.mean(f1):.1f} ± {100 * np.std(f1, ddof=1):.1f} (" in done.stdout


def test_tensorboard_has_settings_and_scores(swept):
    folder, *_ = swept
    run = folder / "sweep/input=s1-seed=1"
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"seed" in content and b"s1" in content
    (score,) = events.Tensors("final/average_f1")
    assert tf.make_ndarray(score.tensor_proto) == pytest.approx(json.loads((run / "report.json").read_text())["average_f1"])


def test_other_settings_need_another_folder(swept):
    folder, options, *_ = swept
    done = call(folder, *options, "--epochs=2", status=1)
    assert "epochs: 1 there, 2 asked for" in done.stderr and "--run_dir" in done.stderr


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
