import json
import statistics
import subprocess
import sys

import pytest

from tfrs import cross_validation, sweep
from tfrs.errors import UserError
from tfrs.experiment import Experiment

ACCURACY = [0.9, 0.7, 0.8]


@pytest.fixture
def trained(monkeypatch):
    """Folds are trained by writing their report; the folds in the order in which that was asked for, and what fails."""
    asked, failing = [], set()

    def train(each, kind, fixed):
        fold = int(each.values["fold"])
        asked.append(fold)
        if fold in failing:
            return False
        (each.folder / "export").mkdir(parents=True)
        scores = {"average_f1": 0.1 * fold, "overall_accuracy": ACCURACY[fold], "loss": 3.0}
        heads = {name: {"scheme": name, **scores} for name in ("covers", "eurosat")}
        (each.folder / "report.json").write_text(json.dumps(scores | ({"heads": heads} if kind == "dual" else {})))
        return True

    monkeypatch.setattr(sweep, "train", train)
    return asked, failing


def run(folder, kind="classify", **changes):
    experiment = Experiment(**{"model": "cnn_class", "folds": 3, "run_dir": str(folder), **changes})
    return cross_validation.run(experiment, kind, {"model": "cnn_class", "folds": "3", "run_dir": str(folder)})


def test_report_over_folds(trained, tmp_path):
    text = run(tmp_path)
    assert trained[0] == [0, 1, 2]
    assert "| Fold | Average F1 | Overall accuracy |" in text and "| 1 | 10.00 | 70.00 |" in text
    assert f"| mean | 10.00 | {100 * statistics.mean(ACCURACY):.2f} |" in text
    assert f"| std | 10.00 | {100 * statistics.stdev(ACCURACY):.2f} |" in text and "| best | 20.00 | 90.00 |" in text
    assert (tmp_path / "cross_validation.md").read_text() == text
    found = json.loads((tmp_path / "cross_validation.json").read_text())
    assert found["folds"]["Overall accuracy"] == ACCURACY and found["over_folds"]["Overall accuracy"]["max"] == 0.9


def test_it_goes_on_with_the_folds_that_are_left(trained, tmp_path):
    asked, failing = trained
    failing.add(1)
    with pytest.raises(UserError, match="1 of 3 runs failed, for the reasons above: fold=1"):
        run(tmp_path)
    failing.clear()
    asked.clear()
    run(tmp_path)
    assert asked == [1]


def test_two_folds_are_too_few(trained, tmp_path):
    with pytest.raises(UserError, match="--folds=2: give at least 3"):
        run(tmp_path, folds=2)
    assert not trained[0]


def test_each_head_has_its_scores(trained, tmp_path):
    text = run(tmp_path, kind="dual")
    assert "| Fold | Average F1 covers | Overall accuracy covers | Average F1 eurosat | Overall accuracy eurosat |" in text


@pytest.mark.parametrize("name", ["classify", "segment", "dual"])
def test_commands_cross_validate_where_no_fold_is_given(name, tmp_path):
    """A folder of another sweep stops it before TensorFlow is imported, and the error tells what it would have run."""
    (tmp_path / "cv").mkdir()
    (tmp_path / "cv/sweep.json").write_text("{}")
    command = [sys.executable, "-m", f"experiments.{name}", "--folds=5", "--run_dir=cv", "--epochs=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    wanted = f"experiment: unset there, {name} asked for, folds: unset there, 5 asked for, epochs: unset there, 2 asked for)"
    assert done.returncode == 1 and wanted in done.stderr
