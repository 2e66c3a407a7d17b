import dataclasses
import json

import keras
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import tensorflow as tf
from small_records import write_records

from tfrs import assemble, evaluate, registry
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.labels import IGBP_SIMPLIFIED

CLASSES = list(IGBP_SIMPLIFIED.classes)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=20, val=13, test=21)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "tiny", "small_records:encoder")


def begin(records, folder, **settings):
    """A run's folder with its settings and weights, as training leaves them; and the model."""
    settings = {"input": "s1s2", "task": "single_label", "batch_size": 8, **settings}
    experiment = Experiment(model="tiny", records=str(records.directory), run_dir=str(folder), **settings)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "flags.txt").write_text(experiment.to_flags())
    keras.utils.set_random_seed(2)
    model = assemble.model(experiment, records, assemble.task(experiment, records))
    model.save_weights(folder / "checkpoints" / "best.weights.h5")
    return experiment, model


def outputs(model, records, split):
    """Logits of every patch of a split, one after the other, and its labels."""
    bands = {"s2": [1, 2, 3, 4, 5, 6, 7, 12, 10, 11], "s1": [0, 1]}
    samples = list(records.samples(split))
    logits = [model({name: sample[name][None, b] for name, b in bands.items()}, training=False)[0] for sample in samples]
    return np.array(logits), samples


def multi_hot(samples):
    return np.array([np.isin(range(10), sample["labels"]) for sample in samples]).astype(int)


def assert_scores(report, true, guess, multi_label):
    """Every number of the report, by scikit-learn."""
    classes = range(10)
    each = {"labels": classes, "average": None, "zero_division": 0}
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(true, guess, **each)
    for i, name in enumerate(CLASSES):
        row = report["per_class"][name]
        assert row["support"] == support[i] and row["precision"] == pytest.approx(precision[i])
        expected = [recall[i], f1[i]] if support[i] else [None, None]
        assert [row["recall"], row["f1"]] == pytest.approx(expected)
    present = np.flatnonzero(support).tolist()
    assert report["absent_classes"] == [name for i, name in enumerate(CLASSES) if i not in present]
    some = {"labels": present, "zero_division": 0}
    assert report["average_f1"] == pytest.approx(sklearn.metrics.f1_score(true, guess, average="macro", **some))
    assert report["weighted_f1"] == pytest.approx(sklearn.metrics.f1_score(true, guess, average="weighted", **some))
    assert report["overall_f1"] == pytest.approx(sklearn.metrics.f1_score(true, guess, average="micro", zero_division=0))
    assert report["average_accuracy"] == pytest.approx(sklearn.metrics.recall_score(true, guess, average="macro", **some))
    assert report["mean_iou"] == pytest.approx(sklearn.metrics.jaccard_score(true, guess, average="macro", **some))
    if multi_label:
        assert report["overall_accuracy"] == pytest.approx((true == guess).mean())
        expected = sklearn.metrics.multilabel_confusion_matrix(true, guess)
    else:
        assert report["overall_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true, guess))
        assert report["kappa"] == pytest.approx(sklearn.metrics.cohen_kappa_score(true, guess))
        expected = sklearn.metrics.confusion_matrix(true, guess, labels=classes)
    np.testing.assert_array_equal(report["confusion_matrix"], expected)


def test_report_of_single_labels(records, tmp_path):
    _, model = begin(records, tmp_path)
    logits, samples = outputs(model, records, "test")
    report = evaluate.run(tmp_path, "test")
    true = np.array([sample["label"] for sample in samples])
    assert_scores(report, true, logits.argmax(axis=1), False)
    probability = scipy.special.softmax(logits.astype(float), axis=1)
    assert report["loss"] == pytest.approx(sklearn.metrics.log_loss(true, probability, labels=range(10)), rel=1e-3)
    described = {name: report[name] for name in ("model", "input", "task", "split", "patches", "records")}
    assert described == {
        "model": "tiny",
        "input": "s1s2",
        "task": "single_label",
        "split": "test",
        "patches": 21,
        "records": str(records.directory),
    }
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail) == report


def test_report_of_multi_labels(records, tmp_path):
    _, model = begin(records, tmp_path, task="multi_label")
    logits, samples = outputs(model, records, "test")
    true = multi_hot(samples)
    report = evaluate.run(tmp_path, "test")
    assert_scores(report, true, (logits >= 0).astype(int), True)
    probability = scipy.special.expit(logits.astype(float)).ravel()
    assert report["loss"] == pytest.approx(sklearn.metrics.log_loss(true.ravel(), probability), rel=1e-3)
    assert "kappa" not in report


def test_labels_are_made_anew_from_the_fractions(records, tmp_path):
    """With a threshold of 60 % most patches keep one label, with 1 % all have two."""
    supports = []
    for threshold in (0.01, 0.6):
        begin(records, tmp_path / str(threshold), task="multi_label", threshold=threshold)
        report = evaluate.run(tmp_path / str(threshold), "test")
        supports.append(sum(row["support"] for row in report["per_class"].values()))
    assert supports[0] > 1.5 * supports[1]


def test_batch_size_changes_no_score(records, tmp_path):
    """Every patch counts once, whatever fills the last batch."""
    reports = []
    for size in (5, 1, 21, 64):
        begin(records, tmp_path / str(size), batch_size=size)
        reports.append(evaluate.run(tmp_path / str(size), "test"))
    losses = [report.pop("loss") for report in reports]
    assert losses == pytest.approx(losses[:1] * 4, rel=1e-5)
    assert all(report == reports[0] for report in reports)


def test_other_splits_leave_the_report_alone(records, tmp_path):
    begin(records, tmp_path)
    evaluate.run(tmp_path, "test")
    before = (tmp_path / "report.json").read_bytes()
    report = evaluate.run(tmp_path, "val")
    assert (tmp_path / "report.json").read_bytes() == before
    assert json.loads((tmp_path / "report-val.json").read_text()) == report and report["patches"] == 13
    names = {path.name for path in tmp_path.iterdir()} - {"flags.txt", "checkpoints"}
    stems = {"report.json", "report.md", "confusion.png", "f1.png", "patches.png"}
    assert names == stems | {name.replace(".", "-val.") for name in stems}
    assert "![confusion](confusion-val.png)" in (tmp_path / "report-val.md").read_text()


def test_a_part_of_a_split_has_a_report_of_its_own(records, tmp_path):
    _, model = begin(records, tmp_path)
    logits, samples = outputs(model, records, "test")
    report = evaluate.run(tmp_path, "test", ["key!=*_1?", "label!=Water"])
    kept = [s["key"][-2:-1] != "1" and CLASSES[s["label"]] != "Water" for s in samples]
    assert 0 < sum(kept) < 11
    assert_scores(report, np.array([s["label"] for s in samples])[kept], logits.argmax(axis=1)[kept], False)
    assert (report["patches"], report["selection"]) == (sum(kept), "key!=*_1?; label!=Water")
    assert json.loads((tmp_path / "report-part.json").read_text()) == report
    assert (
        f"{sum(kept)} patches of `{records.directory}` (key!=*_1?; label!=Water), " in (tmp_path / "report-part.md").read_text()
    )
    assert not (tmp_path / "report.json").exists()


def test_val_is_the_final_split_where_there_is_no_test(records, tmp_path):
    fewer = write_records(tmp_path / "records", train=5, val=4)
    assert evaluate.final_split(fewer) == "val" and evaluate.final_split(records) == "test"
    begin(fewer, tmp_path / "run")
    evaluate.run(tmp_path / "run", "val")
    assert (tmp_path / "run" / "report.json").exists()


def table(text):
    """Rows of the tables of a report."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_markdown_has_the_form_of_table_4(records, tmp_path, task):
    """A row per class with its number, then average and overall F1; in per cent, absent classes without."""
    begin(records, tmp_path, task=task)
    report = evaluate.run(tmp_path, "test")
    text = (tmp_path / "report.md").read_text()
    rows = table(text)
    assert rows[0] == ["Class", "Number", "F1", "Precision", "Recall"]
    for name, row in zip(CLASSES, rows[2:12], strict=True):
        expected = report["per_class"][name]
        if expected["support"]:
            shown = [f"{100 * expected[score]:.1f}" for score in ("f1", "precision", "recall")]
            assert row == [name, str(expected["support"]), *shown]
        else:
            assert row[:3] == [name, "-", "-"] and row[4] == "-"
    summary = {row[0]: row[1] for row in rows[14:]}
    assert summary["Average F1 (macro)"] == f"{100 * report['average_f1']:.1f}"
    assert summary["Overall F1 (micro)"] == f"{100 * report['overall_f1']:.1f}"
    assert summary["Overall accuracy"] == f"{100 * report['overall_accuracy']:.1f}"
    assert ("Kappa" in summary) == (task == "single_label")
    absent = [name for name in CLASSES if not report["per_class"][name]["support"]]
    assert absent and f"left out of the averages over classes: {'; '.join(absent)}." in text
    assert text.startswith("# tiny, s1s2, test\n") and "21 patches" in text


def test_measure_weighs_samples(records):
    experiment = Experiment(model="tiny", records=str(records.directory), task="single_label", input="s1")
    task = assemble.task(experiment, records)
    model = assemble.model(experiment, records, task)
    images, target = np.random.default_rng(0).normal(-12, 3, (6, 2, 16, 16)).astype("float32"), np.arange(6)
    weight = np.array([1, 0, 1, 1, 0, 1], np.float32)
    dataset = tf.data.Dataset.from_tensor_slices(({"s1": images}, target, weight)).batch(4)
    matrix, loss = evaluate.make_measure(tf.distribute.get_strategy(), model, task)(dataset)
    logits = model({"s1": images}, training=False).numpy()
    kept = weight > 0
    np.testing.assert_array_equal(
        matrix, sklearn.metrics.confusion_matrix(target[kept], logits.argmax(1)[kept], labels=range(10))
    )
    probability = scipy.special.softmax(logits.astype(float), axis=1)[kept]
    assert loss == pytest.approx(sklearn.metrics.log_loss(target[kept], probability, labels=range(10)), rel=1e-4)


def test_scores_are_those_of_float32(records, tmp_path):
    """A model trained in half precision is scored and exported as it runs anywhere."""
    experiment, _ = begin(records, tmp_path, mixed_precision="bfloat16")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = evaluate.best_model(experiment, tmp_path, records, assemble.task(experiment, records))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("tiny").output.dtype == "float32"


def test_run_that_has_no_weights_yet(records, tmp_path):
    begin(records, tmp_path)
    (tmp_path / "checkpoints" / "best.weights.h5").unlink()
    with pytest.raises(UserError, match=r"best\.weights\.h5: no such file; the run has not finished an epoch yet"):
        evaluate.run(tmp_path, "test")


def test_weights_of_another_model(records, tmp_path):
    experiment, _ = begin(records, tmp_path)
    (tmp_path / "flags.txt").write_text(dataclasses.replace(experiment, input="s2_rgb").to_flags())
    with pytest.raises(UserError, match=r"best\.weights\.h5 does not fit .*: the records have other bands or classes"):
        evaluate.run(tmp_path, "test")


def test_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"no flags\.txt there; give the folder of a run with --run_dir"):
        evaluate.run(tmp_path, "test")


def test_unknown_split(records, tmp_path):
    begin(records, tmp_path)
    with pytest.raises(UserError, match=r"unknown split of .*'tset'\. Did you mean 'test'\?"):
        evaluate.run(tmp_path, "tset")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "flags.txt"]
