import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from small_records import history, settings, write_records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfrs import assemble, evaluate, pipeline, pixels, registry, train
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.labels import IGBP_SIMPLIFIED

ROOT = Path(__file__).parents[1]
TRAIN = 20


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=TRAIN, val=9, test=11)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "tiny", "small_records:encoder")
    monkeypatch.setitem(registry.MODELS, "plain", "small_records:plain_encoder")


def python(*arguments, folder, **environment):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **environment}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=200)


def test_batch_that_the_devices_cannot_share_is_refused(records, tmp_path):
    flags = settings(records, "run", cpu_devices=3).to_flags().splitlines()
    done = python("-m", "experiments.classify", *flags, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: --batch_size=8 cannot be shared by 3 devices; give a multiple of it\n"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def finished(records, tmp_path_factory):
    """A whole run of the small ResNet."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    experiment = settings(records, folder, model="resnet_small", epochs=2, augment=("dihedral",), schedule="cosine")
    return experiment, folder, train.run(experiment)


def test_run_directory_holds_what_the_contract_says(finished):
    experiment, folder, scores = finished
    assert sorted(path.name for path in folder.iterdir()) == [
        *("checkpoints", "confusion.png", "export", "f1.png", "flags.txt", "history.csv", "patches.png"),
        *("report.json", "report.md", "tensorboard"),
    ]
    assert Experiment.from_flags((folder / "flags.txt").read_text()) == experiment
    assert {"card.json", "saved_model.pb"} <= {path.name for path in (folder / "export").iterdir()}
    report = json.loads((folder / "report.json").read_text())
    assert scores == {name: value for name, value in report.items() if isinstance(value, float)}
    assert {"average_f1", "overall_f1", "weighted_f1", "overall_accuracy", "average_accuracy", "kappa", "mean_iou"} <= set(
        scores
    )
    assert json.loads((folder / "export" / "card.json").read_text())["scores"] == report


def test_history_has_a_row_per_epoch(finished):
    experiment, folder, _ = finished
    first, second = history(folder)
    assert list(first) == [
        *("epoch", "loss", "val_loss", "val_average_f1", "val_overall_f1", "val_overall_accuracy", "learning_rate")
    ]
    assert [first["epoch"], second["epoch"]] == [1, 2] and second["loss"] < first["loss"]
    # Half a cosine over two epochs: half way down after the first.
    assert first["learning_rate"] == pytest.approx(experiment.learning_rate / 2)
    assert second["learning_rate"] == pytest.approx(0, abs=1e-9)


SERVE = """
import sys
import numpy as np
import tensorflow as tf

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
found = serve(**{name: tf.constant(value) for name, value in np.load(sys.argv[2]).items()})
assert not {name for name in sys.modules if name.split(".")[0] == "tfrs"}
np.save(sys.argv[3], found["probabilities"].numpy())
"""


def test_report_is_that_of_the_export_on_the_raw_records(finished, records, tmp_path):
    """Predictions made without this package, scored by scikit-learn."""
    _, folder, _ = finished
    samples = list(records.samples("test"))
    s2 = np.stack([sample["s2"][[1, 2, 3, 4, 5, 6, 7, 12, 10, 11]] for sample in samples])
    np.savez(tmp_path / "raw.npz", s2=s2, s1=np.stack([sample["s1"] for sample in samples]))
    done = python("-c", SERVE, folder / "export", tmp_path / "raw.npz", tmp_path / "out.npy", folder=tmp_path, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    probabilities = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    true, guess = np.array([sample["label"] for sample in samples]), probabilities.argmax(axis=1)
    report = json.loads((folder / "report.json").read_text())
    expected = sklearn.metrics.confusion_matrix(true, guess, labels=range(10))
    np.testing.assert_array_equal(report["confusion_matrix"], expected)
    assert report["overall_accuracy"] == pytest.approx((true == guess).mean())
    macro = sklearn.metrics.f1_score(true, guess, labels=np.unique(true), average="macro", zero_division=0)
    assert report["average_f1"] == pytest.approx(macro)
    assert report["kappa"] == pytest.approx(sklearn.metrics.cohen_kappa_score(true, guess))


def test_tensorboard_shows_scalars_classes_patches_and_the_graph(finished):
    _, folder, _ = finished
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {"loss/train", "loss/val", "val/average_f1", "training/learning_rate", "val/patches"} <= tags
    assert {tag for tag in tags if tag.startswith("val_f1/")} <= {f"val_f1/{name}" for name in IGBP_SIMPLIFIED.classes}
    assert any(tag.startswith("val_f1/") for tag in tags)
    assert events.PluginTagToContent("images").keys() == {"val/patches"}
    losses = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("loss/train")]
    np.testing.assert_allclose(losses, [row["loss"] for row in history(folder)], rtol=1e-6)
    operations = set(re.findall(r'\bop: "(\w+)"', str(events.Graph())))
    assert {"Conv2D", "Conv2DBackpropFilter"} <= operations


def test_finished_run_is_left_alone(finished, capsys):
    experiment, folder, scores = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "flags.txt"}
    assert train.run(experiment) == scores
    assert f"run {folder} is finished already: nothing to train" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "flags.txt"}


def test_mixed_precision_trains_close_to_float32(records, tmp_path):
    losses = []
    for precision in ("", "bfloat16", "float16"):
        folder = tmp_path / f"run{precision}"
        train.run(settings(records, folder, mixed_precision=precision, epochs=1))
        losses.append(history(folder)[0]["loss"])
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=0.02) and len(set(losses)) == 3
    assert keras.config.dtype_policy().name == "float32"


def test_accumulation_learns_as_a_larger_batch(records, tmp_path):
    """20 records: one update of two batches and one of the last, which is not full; no batch normalisation."""
    plain = {"model": "plain", "epochs": 2, "schedule": "cosine", "augment": ("dihedral",)}
    train.run(settings(records, tmp_path / "one", batch_size=16, **plain))
    train.run(settings(records, tmp_path / "two", batch_size=8, accumulate=2, steps_per_execution=2, **plain))
    for left, right in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert right == pytest.approx(left, abs=1e-5)


def test_xla_trains_as_without(records, tmp_path):
    losses = []
    for compiled in (False, True):
        train.run(settings(records, tmp_path / str(compiled), jit_compile=compiled, epochs=1))
        losses.append(history(tmp_path / str(compiled))[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_profile_can_be_read(records, tmp_path):
    """By the protobuf of TensorFlow, as TensorBoard's plugin does; a step more than a call, and an epoch of three calls."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    train.run(settings(records, tmp_path, epochs=2, profile=True))
    (path,) = (tmp_path / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    names = [event.name for plane in space.planes for event in plane.event_metadata.values()]
    assert any("Conv2D" in name for name in names) and "train" in names


def test_wait_for_slow_data_is_written_and_told(records, tmp_path, monkeypatch, capsys):
    read = pixels.gather
    monkeypatch.setattr(pixels, "gather", lambda *a: time.sleep(1.2) or read(*a))
    monkeypatch.setattr(pipeline, "PARALLEL_CALLS", 1)
    train.run(settings(records, tmp_path, epochs=1, input="s1"))
    with open(tmp_path / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0.5 < float(row["waiting"]) < 1 and float(row["seconds"]) > 3
    assert float(row["images_per_second"]) == pytest.approx(TRAIN / float(row["seconds"]))
    told = [line for line in capsys.readouterr().out.splitlines() if "waiting for data" in line]
    assert len(told) == 1 and told[0].startswith(f"{float(row['waiting']):.0%} of the epoch was spent waiting for data. Likely")


def test_sequential_reading_trains_too(records, tmp_path):
    scores = train.run(settings(records, tmp_path, read="sequential", epochs=1, task="multi_label", input="s2_rgb"))
    assert 0 <= scores["average_f1"] <= 1 and len(history(tmp_path)) == 1


def test_loss_that_is_not_finite_ends_the_run(records, tmp_path):
    with pytest.raises(UserError) as caught:
        train.run(settings(records, tmp_path, learning_rate=1e30, epochs=1))
    message = str(caught.value)
    step = int(re.match(r"epoch 1: (?:the loss of step (\d) is (?:nan|inf)|after step 3 weights)", message)[1] or 3) - 1
    order = np.random.default_rng([0, 0]).permutation(TRAIN)[8 * step : 8 * step + 8]
    keys = [records.sample("train", int(number))["key"] for number in order]
    assert f"; its records: {', '.join(keys)}. Likely cause: no value is more than" in message
    assert "--learning_rate=1e+30 is too high: lower it, or try --clip_norm=1 in a new --run_dir." in message
    assert message.endswith("No state had been saved yet")
    assert not (tmp_path / "report.json").exists() and not (tmp_path / "history.csv").exists()


@pytest.mark.parametrize("steps", [1, 2])
def test_patch_that_spoils_the_loss_is_named(tmp_path, steps):
    """An infinite value of Sentinel-1 in the second epoch; the state of the first is left."""
    made = write_records(tmp_path / "records", train=TRAIN, val=9, test=11)
    experiment = settings(made, tmp_path / "run", input="s1", steps_per_execution=steps)
    train.run(dataclasses.replace(experiment, epochs=1, run_dir=str(tmp_path / "first")))
    shutil.copytree(tmp_path / "first", tmp_path / "run", ignore=shutil.ignore_patterns("export", "report*"))
    (tmp_path / "run" / "flags.txt").write_text(experiment.to_flags())
    row = made.index("train")[11]
    shard = made.shards("train")[row["shard"]]
    content = bytearray(shard.read_bytes())
    content[int(row["at_s1"]) + 40 : int(row["at_s1"]) + 44] = np.float32(np.inf).tobytes()
    shard.write_bytes(content)
    before = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    step = int(np.flatnonzero(np.random.default_rng([0, 1]).permutation(TRAIN) == 11)[0]) // 8
    key = row["key"].decode()
    with pytest.raises(
        UserError,
        match=rf"epoch 2: the loss of step {step + 1} is nan; its records: .*{key}.*s1 VV of {key} is inf .* state is kept",
    ):
        train.run(experiment)
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == before
    assert [row["epoch"] for row in history(tmp_path / "run")] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet_smal"}, r"unknown model 'resnet_smal'\. Did you mean 'resnet_small'\?"),
        ({"input": "s2_rbg"}, r"Did you mean 's2_rgb'\?"),
        ({"task": "multi"}, r"unknown task 'multi'\. Did you mean 'multi_label'\?"),
        ({"fusion": "middle"}, r"unknown fusion 'middle'"),
        ({"normalization": "bigearthnt"}, r"Did you mean 'bigearthnet'\?"),
        ({"optimizer": "adamm"}, r"unknown optimizer 'adamm'\. Did you mean 'adam'\?"),
        ({"schedule": "cosin"}, r"unknown schedule 'cosin'\. Did you mean 'cosine'\?"),
        ({"schedule": "plateau", "warmup_epochs": 1}, r"--warmup_epochs is for --schedule=constant and cosine"),
        ({"schedule": "plateau", "patience": 5}, r"--plateau_patience=5: training stops after --patience=5 epochs; give a"),
        ({"freeze_encoder": 1}, r"--freeze_encoder would keep random weights; give --init_from or --encoder_weights"),
        ({"ema": 1.0}, r"--ema=1.0 is out of range; give 0 to"),
        ({"mixed_precision": "bfloat"}, r"unknown precision 'bfloat'\. Did you mean 'bfloat16'\?"),
        ({"read": "radom"}, r"unknown way of reading 'radom'\. Did you mean 'random'\?"),
        ({"augment": ("crop:17",)}, r"crop:17 is larger than the images \(16x16\)"),
        ({"batch_size": 0}, r"batch"),
        ({"accumulate": 0}, r"--accumulate=0 is out of range; give 1 to"),
        ({"accumulate": 4}, r"--accumulate=4: an epoch of 20 records has only 3 batches; give a smaller"),
        ({"steps_per_execution": 4}, r"--steps_per_execution=4: an epoch has only 3 steps; give a smaller number"),
        ({"steps_per_execution": 3, "accumulate": 2}, r"--steps_per_execution=3: an epoch has only 2 steps"),
        ({"epochs": 0}, r"epochs"),
        ({"patience": 0}, r"patience"),
        ({"seed": -1}, r"seed"),
        ({"records": "nowhere"}, r"nowhere: no such directory; build records with"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_before_a_folder_is_made(records, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train.run(dataclasses.replace(settings(records, tmp_path / "run"), **change))
    assert not (tmp_path / "run").exists()


def test_records_without_a_validation_split_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no val split; build records with --val_fraction or --split_file"):
        train.run(settings(write_records(tmp_path / "records", train=3), tmp_path / "run"))


def test_a_fold_of_chosen_records_is_trained_and_scored(records, tmp_path, capsys):
    """Both the run and a later evaluation take the same records."""
    changes = {"where": ("key!=*_1",), "folds": 3, "fold": 2, "sampling": "balanced", "epochs": 1}
    experiment = settings(records, tmp_path / "run", **changes)
    train.run(experiment)
    parts = assemble.records(experiment)
    said = "key!=*_1; fold 2 of 3 with seed 0"
    counts = {split: parts.count(split) for split in parts.splits}
    assert sum(counts.values()) == TRAIN + 9 + 11 - 3 and max(counts.values()) - min(counts.values()) <= 1
    printed = ", ".join(f"{count} {split}" for split, count in counts.items())
    assert f"records chosen ({said}): {printed}" in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["selection"], report["patches"]) == (said, counts["test"])
    again = evaluate.run(tmp_path / "run", "test")
    assert again["confusion_matrix"] == report["confusion_matrix"]
    assert sum(map(sum, again["confusion_matrix"])) == counts["test"]
