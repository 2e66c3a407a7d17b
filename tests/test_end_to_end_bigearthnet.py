"""From simulated BigEarthNet to a report and an export, through the commands."""

import json
import subprocess
import sys

from tfrs.labels import BIGEARTHNET_19


def run(folder, module, *arguments):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_both_sensors_train_on_the_19_classes(tmp_path):
    run(tmp_path, "tfrecords_builder", "--dataset", "bigearthnet", "--synthesize", 10, "--workers", 1)
    shown = run(tmp_path, "tfrecords_builder", "show", "records")
    assert "Classes of train (bigearthnet_19)" in shown and "Classes of train (bigearthnet_43)" in shown
    assert run(tmp_path, "tfrecords_builder", "stats", "records").strip().endswith("class_distribution.png")
    flags = ["--model=resnet_small", "--input=s1s2", "--augment=dihedral,crop:32", "--epochs=1", "--batch_size=2"]
    run(tmp_path, "experiments.classify", "--records=records/bigearthnet", *flags, "--run_dir=run")
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["task"] == "multi_label"
    assert tuple(report["per_class"]) == BIGEARTHNET_19.classes
    card = json.loads((tmp_path / "run/export/card.json").read_text())
    assert [entry["name"] for entry in card["classes"]] == list(BIGEARTHNET_19.classes)
    assert (card["inputs"]["s2"]["bands"][0], card["inputs"]["s1"]["bands"]) == ("B02", ["VV", "VH"])
