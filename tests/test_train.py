import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from small_records import history, settings, write_records
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfrs import assemble, evaluate, registry, train
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.labels import EUROSAT, IGBP_SIMPLIFIED
from tfrs.tasks import SingleLabel

ROOT = Path(__file__).parents[1]
TRAIN = 20


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=TRAIN, val=9, test=11)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "tiny", "small_records:encoder")


def test_step_is_adam_with_coupled_decay():
    """Against Adam written out in NumPy, float64 (Kingma & Ba 2015), for softmax regression; L2 added to the gradient."""
    rng = np.random.default_rng(0)
    rate, decay, epsilon = 0.01, 0.1, 1e-7
    kernel, bias = rng.normal(0, 0.3, (18, 10)), rng.normal(0, 0.3, 10)
    image = keras.Input((2, 3, 3), name="s1")
    dense = keras.layers.Dense(10)
    model = keras.Model({"s1": image}, dense(keras.layers.Flatten()(image)))
    dense.set_weights([kernel, bias])
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(model.trainable_variables)
    step = train.make_train_step(tf.distribute.get_strategy(), model, optimizer, SingleLabel(EUROSAT, ("label",)), decay)

    values = [kernel, bias]
    first, second = ([np.zeros_like(value) for value in values] for _ in range(2))
    for number in range(1, 5):
        images, target = rng.normal(size=(6, 2, 3, 3)).astype(np.float32), rng.integers(0, 10, 6)
        weight = np.array([1, 1, 0, 1, 0, 1], np.float32)
        loss, size = step({"s1": tf.constant(images)}, tf.constant(target), tf.constant(weight)).numpy()

        x, used = images.reshape(6, -1).astype(float), weight / weight.sum()
        logits = x @ values[0] + values[1]
        probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert size == weight.sum()
        assert loss / size == pytest.approx(-(used * np.log(probability[np.arange(6), target])).sum(), rel=1e-4)
        error = (probability - np.eye(10)[target]) * used[:, None]
        gradients = [x.T @ error, error.sum(axis=0)]
        for i, gradient in enumerate(gradients):
            gradient = gradient + decay * values[i]
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            scale = math.sqrt(1 - 0.999**number) / (1 - 0.9**number)
            values[i] = values[i] - rate * scale * first[i] / (np.sqrt(second[i]) + epsilon)
    for found, expected in zip(model.get_weights(), values, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


TWO_REPLICAS = """
import json
import keras, numpy as np, tensorflow as tf
from tfrs.evaluate import make_measure
from tfrs.labels import EUROSAT
from tfrs.tasks import SingleLabel
from tfrs.train import make_train_step

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
images, target = rng.normal(size=(3, 8, 4, 4, 2)).astype("float32"), rng.integers(0, 10, (3, 8))
# All real; three of the second replica's four padded; the second replica has nothing but padding.
weight = np.array([[1] * 8, [1] * 5 + [0] * 3, [1] * 3 + [0] * 5], "float32")
task, results = SingleLabel(EUROSAT, ("label",)), []
for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        image = keras.Input((4, 4, 2), name="s1")
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3, activation="relu")(image))
        model = keras.Model({"s1": image}, keras.layers.Dense(10)(x))
        optimizer = keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)
    assert strategy.num_replicas_in_sync == len(devices)
    step = make_train_step(strategy, model, optimizer, task, 0.1)
    batches = tf.data.Dataset.from_tensor_slices(({"s1": images}, target, weight))
    losses = [step(*batch).numpy().tolist() for batch in strategy.experimental_distribute_dataset(batches)]
    matrix, loss = make_measure(strategy, model, task)(batches)
    weights = [value.tolist() for value in model.get_weights()]
    results.append({"losses": losses, "weights": weights, "matrix": matrix.tolist(), "loss": loss})
print(json.dumps(results))
"""


def python(*arguments, folder, **environment):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **environment}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=200)


def test_two_replicas_step_as_one(tmp_path):
    done = python("-c", TWO_REPLICAS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout)
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-6)
    for left, right in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_allclose(right, left, atol=1e-6)
    assert two["matrix"] == one["matrix"] and np.sum(one["matrix"]) == 16
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)


# A command of this package that knows the small encoder as well.
COMMAND = """
import runpy, sys
from tfrs import registry

registry.MODELS["tiny"] = "small_records:encoder"
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


def test_two_devices_train_evaluate_and_export(records, tmp_path):
    flags = settings(records, "run", cpu_devices=2, epochs=2, augment=("dihedral",), task="multi_label").to_flags().splitlines()
    done = python("-c", COMMAND, "experiments.classify", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "on 2 device(s)" in done.stdout and [row["epoch"] for row in history(tmp_path / "run")] == [1, 2]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert list(report["per_class"]) == list(IGBP_SIMPLIFIED.classes) and report["patches"] == 11
    assert (tmp_path / "run" / "export" / "card.json").exists()
    done = python("-c", COMMAND, "experiments.evaluate", "--run_dir=run", "--split=val", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    best = max(row["val_average_f1"] for row in history(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "report-val.json").read_text())["average_f1"] == pytest.approx(best)


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
    graph = events.Graph()
    operations = {node.op for part in [graph.node, *(f.node_def for f in graph.library.function)] for node in part}
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


def test_sequential_reading_trains_too(records, tmp_path):
    scores = train.run(settings(records, tmp_path, read="sequential", epochs=1, task="multi_label", input="s2_rgb"))
    assert 0 <= scores["average_f1"] <= 1 and len(history(tmp_path)) == 1


def test_loss_that_is_not_finite_ends_the_run(records, tmp_path):
    with pytest.raises(UserError, match=r"training loss of epoch 1 is (nan|inf); .*Lower --learning_rate"):
        train.run(settings(records, tmp_path, learning_rate=1e30))
    assert not (tmp_path / "report.json").exists() and not (tmp_path / "history.csv").exists()


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
        ({"mixed_precision": "bfloat"}, r"unknown precision 'bfloat'\. Did you mean 'bfloat16'\?"),
        ({"read": "radom"}, r"unknown way of reading 'radom'\. Did you mean 'random'\?"),
        ({"augment": ("crop:17",)}, r"crop:17 is larger than the images \(16x16\)"),
        ({"batch_size": 0}, r"batch"),
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
