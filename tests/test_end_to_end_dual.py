"""CNN-dual trained on windows of small patches with masks; what its report, its export and the cascade say of them."""

import json
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tfrecords_builder.writer import write
from tfrs import aggregate, assemble, cascade, metrics, pipeline, train
from tfrs.datasets.base import Dataset
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.labels import EUROSAT, WATER_BUILT_UP
from tfrs.records import Records
from tfrs.schema import Field, Schema
from tfrs.sensors import sentinel2
from tfrs.sweep import Run

SIZE = 12
BANDS = ("B02", "B03", "B04", "B08")
WATER, BUILT, OTHER = range(3)


@dataclass(frozen=True)
class Masked(Dataset):
    """Patches whose pixels are dark where their mask says so; two pixels of each have no data."""

    name = "masked"
    sensors = (sentinel2(BANDS),)
    layout = "nothing on disk"
    schema = Schema(
        {
            "key": Field("text"),
            "label": Field("label", scheme="eurosat"),
            "s2": Field("raster", "uint16", (4, SIZE, SIZE)),
            "gsw": Field("raster", "uint8", (1, SIZE, SIZE)),
            "esm": Field("raster", "uint8", (1, SIZE, SIZE)),
        },
        {"eurosat": EUROSAT},
    )

    def index(self, root, split):
        raise NotImplementedError

    def read(self, root, key):
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        label = int(rng.choice([1, 7, 8, 9]))
        gsw, esm = (rng.choice(values, (1, SIZE, SIZE)).astype("uint8") for values in ([0, 1, 2, 3], [0, 1, 250, 255]))
        dark = {8: gsw, 9: gsw, 7: esm}.get(label, gsw * 0)[0] > 1
        image = np.where(dark, 200, 3000) + 400 * label + rng.integers(0, 50, (4, SIZE, SIZE))
        image[:, 0, :2] = 0
        return {"key": key, "label": label, "s2": image.astype("uint16"), "gsw": gsw, "esm": esm}

    def synthesize(self, root, n, seed):
        raise NotImplementedError


def truth(sample):
    """Cover (H, W) of a record by the words of the paper, -1 where there is no data."""
    name = EUROSAT.classes[sample["label"]]
    cover = np.full((SIZE, SIZE), OTHER)
    if name in ("River", "SeaLake"):
        cover = np.where(sample["gsw"][0] == 1, OTHER, WATER)
    if name in ("Industrial", "Residential"):
        cover = np.where(sample["esm"][0] == 1, OTHER, BUILT)
    return np.where((sample["s2"] == 0).all(axis=0), -1, cover)


def settings(records, folder, **changes):
    given = {"task": "dual", "model": "cnn_dual", "input": "s2_10m", "optimizer": "sgd", "learning_rate": 0.01, "decay": 0.0}
    given |= {"batch_size": 8, "epochs": 2, "windows": 16, **changes}
    return Experiment(records=str(records.directory), run_dir=str(folder), **given)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Records, the folder of a run on them, and its scores."""
    folder = tmp_path_factory.mktemp("dual")
    keys = {split: [f"{split}_{i}" for i in range(count)] for split, count in (("train", 21), ("val", 5), ("test", 6))}
    write(Masked(), folder, folder, keys)
    records = Records(folder / "masked")
    return records, folder / "run", train.run(settings(records, folder / "run"), "dual")


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_target_through_the_pipeline(run, read):
    records, *_ = run
    task = aggregate.create(records, "dual", loss="cross_entropy", label_smoothing=0.0)
    batches = pipeline.load(records, "test", inputs="s2_10m", task=task, batch_size=3, read=read)
    targets = np.concatenate([target.numpy() for _, target, _ in batches])
    for target, sample in zip(targets, records.samples("test"), strict=True):
        cover = truth(sample)
        np.testing.assert_array_equal(target, np.where(cover < 0, 255, cover + 3 * sample["label"]))


def test_report_is_that_of_the_exported_model(run):
    """Both heads of every pixel with data, by the SavedModel on whole patches, against scikit-learn."""
    records, folder, _ = run
    serve = tf.saved_model.load(str(folder / "export")).signatures["serving_default"]
    pairs = {"probabilities": [], "patch_class": []}
    for sample in records.samples("test"):
        found = serve(s2=tf.constant(sample["s2"][None]))
        cover = truth(sample)
        expected = {"probabilities": cover, "patch_class": np.full((SIZE, SIZE), sample["label"])}
        for name, output in found.items():
            np.testing.assert_allclose(output.numpy().sum(axis=1), 1, rtol=1e-5)
            pairs[name] += zip(expected[name][cover >= 0], output.numpy()[0].argmax(0)[cover >= 0], strict=True)
    report = json.loads((folder / "report.json").read_text())
    assert report["task"] == "dual" and set(report["heads"]) == set(pairs)
    for name, scheme in (("probabilities", WATER_BUILT_UP), ("patch_class", EUROSAT)):
        head, (true, predicted) = report["heads"][name], zip(*pairs[name], strict=True)
        assert head["scheme"] == scheme.name and list(head["per_class"]) == list(scheme.classes)
        assert head["overall_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
        assert head["kappa"] == pytest.approx(sklearn.metrics.cohen_kappa_score(true, predicted), abs=1e-9)
        np.testing.assert_array_equal(
            head["confusion_matrix"], sklearn.metrics.confusion_matrix(true, predicted, labels=range(len(scheme.classes)))
        )
    # The main scores are those of the first head, none of them a mixture of both; what is not a score is of the run.
    assert (
        report["heads"]["probabilities"].items() <= report.items()
        and report["heads"]["patch_class"]["kappa"] != report["kappa"]
    )
    text = (folder / "report.md").read_text()
    assert "| Score | water_built_up | eurosat |" in text and "| Built-up | " in text and "| River | " in text


def test_scores_of_a_run_are_those_of_the_map(run):
    """As its command prints them, a sweep compares them and TensorBoard lists them."""
    _, folder, printed = run
    expected = json.loads((folder / "report.json").read_text())["heads"]["probabilities"]["overall_accuracy"]
    assert printed["overall_accuracy"] == Run({}, folder).scores()["overall_accuracy"] == expected


def test_card_names_both_outputs(run):
    card = json.loads((run[1] / "export/card.json").read_text())
    assert card["output"] == {"name": "probabilities", "layout": "(batch, class, row, column)", "margin": 2}
    assert [entry["name"] for entry in card["classes"]] == ["Water", "Built-up", "Other"]
    assert [entry["name"] for entry in card["other_outputs"]["patch_class"]["classes"]] == list(EUROSAT.classes)


def test_interrupted_run_draws_the_windows_it_would_have_drawn(run, tmp_path, monkeypatch):
    """Interrupted in its second epoch."""
    records, _, at_once = run
    real, calls = metrics.scores, []

    def scores(matrix, classes):
        calls.append(classes)
        if len(calls) == 3:  # of two heads
            raise KeyboardInterrupt
        return real(matrix, classes)

    monkeypatch.setattr(metrics, "scores", scores)
    with pytest.raises(KeyboardInterrupt):
        train.run(settings(records, tmp_path / "parts"), "dual")
    assert train.run(settings(records, tmp_path / "parts"), "dual") == at_once


def test_only_patches_called_water_or_built_up_are_segmented(run, tmp_path, monkeypatch):
    """The classifier's answers are given; all pixels of the other patches are Other."""
    records, folder, _ = run
    said = np.array([7, 1, 9, 0, 1, 8])  # of the six patches
    card = {"scheme": "eurosat", "task": "single_label", "model": "cnn_class", "inputs": {"s2": {"bands": BANDS}}}
    card["output"] = {"name": "probabilities", "layout": "(batch, class)"}
    real_card, real_serve = cascade.read_card, cascade._serve
    monkeypatch.setattr(cascade, "read_card", lambda path: card if path == "classifier" else real_card(path))

    def serve(path, card):
        return (lambda images: np.eye(10)[np.resize(said, 64)]) if path == "classifier" else real_serve(path, card)

    monkeypatch.setattr(cascade, "_serve", serve)
    scores = cascade.run("classifier", folder / "export", records, "test", tmp_path / "pair")
    assert scores["segmented_patches"] == 3
    dense = tf.saved_model.load(str(folder / "export")).signatures["serving_default"]
    matrix = np.zeros((3, 3))
    for sample, label in zip(records.samples("test"), said, strict=True):
        found = dense(s2=tf.constant(sample["s2"][None]))["probabilities"].numpy()[0].argmax(0)
        cover = truth(sample)
        np.add.at(matrix, (cover[cover >= 0], (found if label in (4, 7, 8, 9) else found * 0 + OTHER)[cover >= 0]), 1)
    np.testing.assert_array_equal(scores["confusion_matrix"], matrix)
    assert "3 patches were segmented" in (tmp_path / "pair/report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "unet_mobilenet"}, "--windows and --balance_windows are for cnn_dual and cnn_segm"),
        ({"windows": 0, "balance_windows": True}, "--balance_windows needs a number of --windows"),
        ({"windows": 65}, "a patch of 12x12 pixels has 64 of 5x5"),
        ({"model": "cnn_segm", "task": "segmentation"}, "--task=segmentation is not for this command"),
        ({"class_weights": "inverse"}, "--class_weights is for --task=segmentation; this run's task is dual"),
        ({"augment": ("cutmix",)}, "--augment=cutmix mixes maps, but not the class of a patch"),
        ({"task": "aggregate"}, "cnn_dual has 2 heads"),
    ],
)
def test_refused_settings(run, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train.run(settings(run[0], tmp_path / "never", **changes), "dual")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("windows", [{"windows": 3, "balance_windows": True}, {"windows": 0}], ids=str)
def test_processes_share_the_windows_of_every_batch(run, windows):
    """From the second step on, and into the next epoch."""
    records, *_ = run
    experiment = settings(records, "", **windows)
    task = assemble.task(experiment, records)

    def epochs(worker):
        batches = assemble.batches(experiment, records, task, "train", training=True, step=1, worker=worker)
        return [[[images["s2"], *rest] for images, *rest in batches.as_numpy_iterator()] for _ in range(2)]

    for whole, *parts in zip(epochs((0, 1)), epochs((0, 2)), epochs((1, 2)), strict=True):
        for batch, *halves in zip(whole, *parts, strict=True):
            for values, first, second in zip(batch, *halves, strict=True):
                assert len(first) == len(second)
                np.testing.assert_array_equal(values, np.concatenate([first, second]))
