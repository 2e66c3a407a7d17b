import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_records import history, saved, settings, write_records
from tqdm import tqdm

from tfrs import assemble, board, checkpoints, evaluate, metrics, registry, train

# Everything that draws random numbers, and a learning rate that depends on the step.
RANDOM = {
    "augment": ("dihedral", "noise:0.2"),
    "dropout": 0.4,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "optimizer": "adamw",
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=20, val=9, test=11)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "tiny", "small_records:encoder")


def scored(monkeypatch, *values):
    """Make these the validation scores of the epochs that follow."""
    left, real = list(values), metrics.scores
    monkeypatch.setattr(metrics, "scores", lambda *a: {**real(*a), **({"average_f1": left.pop(0)} if left else {})})


def interrupt(monkeypatch, owner, name, at):
    """Interrupt the `at`-th call of a function, after it is done."""
    calls, real = [], getattr(owner, name)

    def call(*arguments, **options):
        result = real(*arguments, **options)
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, call)


@pytest.fixture(scope="module")
def straight(records, tmp_path_factory):
    """Three epochs without a break."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.MODELS, "tiny", "small_records:encoder")
        folder = tmp_path_factory.mktemp("straight")
        train.run(settings(records, folder, **RANDOM))
    return folder


@pytest.mark.parametrize(
    ("owner", "name", "at"),
    [
        (train, "_train_calls", 1),  # nothing is saved yet
        (train, "_train_calls", 2),
        (checkpoints, "save_weights", 1),  # best weights of an epoch that is not in a checkpoint
        (board.Board, "epoch", 2),  # history is ahead of the checkpoint
        (train.evaluate, "report", 1),  # trained, not exported
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_interrupted_run_ends_as_if_nothing_had_happened(records, straight, tmp_path, monkeypatch, owner, name, at):
    experiment = settings(records, tmp_path, **RANDOM)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, owner, name, at)
        train.run(experiment)
    train.run(experiment)
    assert history(tmp_path) == history(straight)
    left, right = saved(tmp_path), saved(straight)
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads((straight / "report.json").read_text())
    assert (tmp_path / "export" / "card.json").exists()


def test_run_evaluated_before_its_end_is_not_taken_for_finished(records, straight, tmp_path, monkeypatch):
    """`experiments.evaluate` on a run that still trains, or was interrupted."""
    experiment = settings(records, tmp_path, **RANDOM)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, train, "_train_calls", 2)
        train.run(experiment)
    evaluate.run(tmp_path, "test")
    train.run(experiment)
    assert history(tmp_path) == history(straight)


def test_best_score_is_remembered(records, tmp_path, monkeypatch, capsys):
    """Worse epochs after a restart must not replace the best weights of before."""
    experiment = settings(records, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        scored(patch, 0.9, 0.1)
        interrupt(patch, train, "_train_calls", 2)
        train.run(experiment)
    best = (tmp_path / "checkpoints" / "best.weights.h5").read_bytes()
    with monkeypatch.context() as patch:
        scored(patch, 0.5, 0.6)
        train.run(experiment)
    assert "continuing after epoch 1 (best average_f1 0.9000 of epoch 1)" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "best.weights.h5").read_bytes() == best
    assert [row["val_average_f1"] for row in history(tmp_path)] == [0.9, 0.5, 0.6]


def test_training_stops_when_patience_is_over_and_keeps_the_best_epoch(records, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        scored(patch, 0.2, 0.6, 0.5, 0.4, 0.3, 0.9)
        train.run(settings(records, tmp_path / "long", epochs=50, patience=3))
    assert [row["val_average_f1"] for row in history(tmp_path / "long")] == [0.2, 0.6, 0.5, 0.4, 0.3]
    with monkeypatch.context() as patch:
        scored(patch, 0.2, 0.6)
        train.run(settings(records, tmp_path / "short", epochs=2))
    weights = []
    for folder in (tmp_path / "long", tmp_path / "short"):
        experiment = settings(records, folder)
        model = evaluate.best_model(experiment, folder, records, assemble.task(experiment, records))
        weights.append(model.get_weights())
    for left, right in zip(*weights, strict=True):
        np.testing.assert_array_equal(left, right)


def test_average_of_the_weights_is_scored_kept_and_exported(records, tmp_path, monkeypatch):
    """Against an average in NumPy of the weights after each of six steps; batch normalisation keeps its own."""
    experiment = settings(records, tmp_path, ema=0.8, epochs=2, save_every_steps=1)
    models, steps, make, real = [], [], train.make_train_steps, checkpoints.advance

    def after_step(*arguments):
        real(*arguments)
        steps.append(models[0].get_weights())

    monkeypatch.setattr(train, "make_train_steps", lambda *a, **options: models.append(a[1]) or make(*a, **options))
    monkeypatch.setattr(checkpoints, "advance", after_step)
    scored(monkeypatch, 0.1, 0.2)
    train.run(experiment)
    assert len(steps) == 6
    (model,) = models
    names = [weight.path for weight in model.weights]
    trained = [weight.trainable for weight in model.weights]
    average = [value.astype(np.float64) for value in steps[0]]
    for values in steps[1:]:
        average = [0.8 * mean + 0.2 * value for mean, value in zip(average, values, strict=True)]
    best = evaluate.best_model(experiment, tmp_path, records, assemble.task(experiment, records)).get_weights()
    assert sum(trained) > 2 and not all(trained)
    for found, mean, last, learned, name in zip(best, average, steps[-1], trained, names, strict=True):
        np.testing.assert_allclose(found, mean if learned else last, rtol=1e-5, atol=1e-6, err_msg=name)
    for found, last in zip(model.get_weights(), steps[-1], strict=True):  # trained on as they were
        np.testing.assert_array_equal(found, last)


def test_learning_rate_is_lowered_on_a_plateau_across_a_restart(records, tmp_path, monkeypatch):
    """Best in the first epoch; two worse ones, twice, and once more after a better one; under loss scaling."""
    options = {"schedule": "plateau", "plateau_patience": 2, "plateau_factor": 0.5, "epochs": 8, "learning_rate": 0.08}
    experiment = settings(records, tmp_path, mixed_precision="float16", **options)
    scores = [0.5, 0.4, 0.3, 0.5, 0.2, 0.6, 0.1, 0.1]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        scored(patch, *scores)
        interrupt(patch, train, "_train_calls", 5)
        train.run(experiment)
    with monkeypatch.context() as patch:
        scored(patch, *scores[4:])
        train.run(experiment)
    rates = [row["learning_rate"] for row in history(tmp_path)]
    assert rates == pytest.approx([0.08, 0.08, 0.08, 0.04, 0.04, 0.02, 0.02, 0.02])


def test_encoder_stays_for_the_first_epoch(records, straight, tmp_path, monkeypatch):
    """Kernel and batch normalisation, to the last bit, beside a head that learns; the schedule is that of other runs."""
    experiment = settings(records, tmp_path / "whole", init_from=str(straight), freeze_encoder=1, save_every_steps=2, **RANDOM)
    models, epochs, make, real = [], [], train.make_train_steps, checkpoints.begin_epoch

    def after_epoch(*arguments):
        real(*arguments)
        epochs.append(models[0].get_weights())

    with monkeypatch.context() as patch:
        patch.setattr(train, "make_train_steps", lambda *a, **options: models.append(a[1]) or make(*a, **options))
        patch.setattr(checkpoints, "begin_epoch", after_epoch)
        train.run(experiment)
    source = evaluate.best_model(experiment, straight, records, assemble.task(experiment, records))
    (encoder,) = (layer for layer in models[0].layers if isinstance(layer, keras.Model))
    encoder = {id(weight) for weight in encoder.weights}
    assert len(encoder) == 5  # kernel; scale, shift, mean, variance
    for weight, start, first, second in zip(models[0].weights, source.get_weights(), *epochs[:2], strict=True):
        if id(weight) in encoder or weight.trainable:  # not the statistics of the records
            assert np.array_equal(start, first) == (id(weight) in encoder) and not np.array_equal(first, second), weight.path
    rates = [[row["learning_rate"] for row in history(folder)] for folder in (tmp_path / "whole", straight)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)

    again = dataclasses.replace(experiment, run_dir=str(tmp_path / "parts"))
    for at in (3, 2):  # before anything of the epoch after the frozen one is saved, and within it
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, train, "_train_calls", at)
            train.run(again)
    train.run(again)
    left, right = saved(tmp_path / "parts"), saved(tmp_path / "whole")
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


@pytest.mark.parametrize("score", [0.6, 0.7])
def test_score_that_stays_the_same_is_not_better(records, tmp_path, monkeypatch, score):
    """0.6 is a little more in float32 than in float64, 0.7 a little less."""
    with monkeypatch.context() as patch:
        scored(patch, *[score] * 4)
        train.run(settings(records, tmp_path, epochs=4, patience=2))
    assert len(history(tmp_path)) == 3


def test_seed_decides_the_run(records, straight, tmp_path):
    """The same seed does the same: the tests of interruptions."""
    train.run(settings(records, tmp_path, seed=1, **RANDOM))
    assert history(tmp_path)[0]["loss"] != history(straight)[0]["loss"]


def test_rows_of_an_epoch_are_those_of_its_steps_until_one_is_not_finite():
    rows = np.arange(12.0).reshape(4, 3)
    calls, asked = [np.array([2, 2]), np.array([2]), np.array([1])], []

    def train_steps(iterator, batches, before):
        asked.append((batches.numpy().tolist(), before.numpy().tolist()))
        return tf.constant(parts[len(asked) - 1])

    strategy, parts = tf.distribute.get_strategy(), [rows[:2], rows[2:3], rows[3:]]
    np.testing.assert_array_equal(train._train_calls(strategy, train_steps, None, calls, tqdm(disable=True)), rows)
    given = [np.zeros((1, 3)), *parts[:2]]
    assert asked == [(call.tolist(), before.tolist()) for call, before in zip(calls, given, strict=True)]
    asked.clear()
    rows[1, 0] = np.nan
    np.testing.assert_array_equal(train._train_calls(strategy, train_steps, None, calls, tqdm(disable=True)), rows[:3])
    assert len(asked) == 2


def test_loss_of_an_epoch_is_the_mean_over_its_records(records, tmp_path, monkeypatch):
    """Ten records in batches of four, whose mean losses are 1, 2 and 4: (4 * 1 + 4 * 2 + 2 * 4) / 10."""
    sums = np.array([[4.0, 4.0, 0], [8.0, 4.0, 0], [8.0, 2.0, 0]])
    monkeypatch.setattr(train, "_train_calls", lambda *_: sums)
    train.run(settings(records, tmp_path, epochs=1))
    assert history(tmp_path)[0]["loss"] == 2.0
