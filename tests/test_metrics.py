import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs import metrics

CLASSES = tuple("ABCDEF")
SEEDS = st.integers(0, 2**32 - 1)


def single(seed):
    """Reference, prediction and weight 0 or 1 of up to 60 patches over some of six classes."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 60)
    present = rng.choice(6, rng.integers(1, 7), replace=False)
    true, guess = rng.choice(present, count), rng.integers(0, 6, count)
    guess = np.where(rng.random(count) < 0.5, true, guess)
    weight = rng.integers(0, 2, count).astype(np.float32)
    weight[rng.integers(count)] = 1
    return true, guess, weight


def multi(seed):
    rng = np.random.default_rng(seed)
    count, share = rng.integers(1, 60), rng.random(6) * rng.integers(0, 2, 6)
    true, guess = (rng.random((count, 6)) < share).astype(int), (rng.random((count, 6)) < rng.random(6)).astype(int)
    weight = rng.integers(0, 2, count).astype(np.float32)
    weight[rng.integers(count)] = 1
    return true, guess, weight


def assert_per_class(scores, true, guess):
    options = {"labels": range(6), "average": None, "zero_division": 0}
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(true, guess, **options)
    iou = sklearn.metrics.jaccard_score(true, guess, **options)
    for i, name in enumerate(CLASSES):
        row = scores["per_class"][name]
        assert row["support"] == support[i]
        assert row["precision"] == pytest.approx(precision[i])
        if support[i]:
            assert [row["recall"], row["f1"], row["iou"]] == pytest.approx([recall[i], f1[i], iou[i]])
        else:
            assert row["recall"] is row["f1"] is row["iou"] is None


def assert_averages(scores, true, guess, present):
    """Averages over the classes of the reference, by scikit-learn; none of them where no class is present."""

    def expected(score, **options):
        return score(true, guess, labels=present, zero_division=0, **options) if present else 0

    assert scores["absent_classes"] == [name for i, name in enumerate(CLASSES) if i not in present]
    assert scores["average_f1"] == pytest.approx(expected(sklearn.metrics.f1_score, average="macro"))
    assert scores["weighted_f1"] == pytest.approx(expected(sklearn.metrics.f1_score, average="weighted"))
    assert scores["average_accuracy"] == pytest.approx(expected(sklearn.metrics.recall_score, average="macro"))
    assert scores["mean_iou"] == pytest.approx(expected(sklearn.metrics.jaccard_score, average="macro"))
    # False alarms of absent classes count here.
    everything = {"labels": range(6), "average": "micro", "zero_division": 0}
    assert scores["overall_f1"] == pytest.approx(sklearn.metrics.f1_score(true, guess, **everything))


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_single_label_scores(seed):
    true, guess, weight = single(seed)
    matrix = metrics.confusion(true, guess, weight, 6).numpy()
    kept = weight > 0
    true, guess = true[kept], guess[kept]
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(true, guess, labels=range(6)))
    scores = metrics.scores(matrix, CLASSES)
    assert_per_class(scores, true, guess)
    assert_averages(scores, true, guess, sorted(set(true.tolist())))
    assert scores["overall_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true, guess))
    if len({*true.tolist(), *guess.tolist()}) > 1:
        assert scores["kappa"] == pytest.approx(sklearn.metrics.cohen_kappa_score(true, guess, labels=range(6)))


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_multi_label_scores(seed):
    true, guess, weight = multi(seed)
    matrix = metrics.confusion_multi_label(true, guess, weight).numpy()
    kept = weight > 0
    true, guess = true[kept], guess[kept]
    np.testing.assert_array_equal(matrix, sklearn.metrics.multilabel_confusion_matrix(true, guess, labels=range(6)))
    scores = metrics.scores(matrix, CLASSES)
    assert_per_class(scores, true, guess)
    assert_averages(scores, true, guess, np.flatnonzero(true.any(axis=0)).tolist())
    assert scores["overall_accuracy"] == pytest.approx(1 - sklearn.metrics.hamming_loss(true, guess))
    assert "kappa" not in scores


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_one_against_rest(seed):
    true, guess, weight = single(seed)
    cells = metrics.one_against_rest(metrics.confusion(true, guess, weight, 6).numpy())
    kept = weight > 0
    np.testing.assert_array_equal(cells, sklearn.metrics.multilabel_confusion_matrix(true[kept], guess[kept], labels=range(6)))


def test_scores_by_hand():
    """A: 3 of 5 found, none wrong. B: 2 of 2 found, one false. C is absent and guessed once."""
    scores = metrics.scores(np.array([[3, 1, 1], [0, 2, 0], [0, 0, 0]]), ("A", "B", "C"))
    assert scores["per_class"]["A"] == pytest.approx({"precision": 1, "recall": 3 / 5, "f1": 3 / 4, "iou": 3 / 5, "support": 5})
    assert scores["per_class"]["B"] == pytest.approx({"precision": 2 / 3, "recall": 1, "f1": 4 / 5, "iou": 2 / 3, "support": 2})
    assert scores["per_class"]["C"] == {"precision": 0, "recall": None, "f1": None, "iou": None, "support": 0}
    assert scores["absent_classes"] == ["C"]
    assert scores["average_f1"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert scores["weighted_f1"] == pytest.approx((5 * 3 / 4 + 2 * 4 / 5) / 7)
    assert scores["average_accuracy"] == pytest.approx((3 / 5 + 1) / 2)
    assert scores["mean_iou"] == pytest.approx((3 / 5 + 2 / 3) / 2)
    assert scores["overall_f1"] == scores["overall_accuracy"] == pytest.approx(5 / 7)
    # By chance (5 * 3 + 2 * 3) / 49 = 3/7 would agree.
    assert scores["kappa"] == pytest.approx((5 / 7 - 3 / 7) / (1 - 3 / 7))


def test_matrices_of_batches_add_up():
    true, guess, weight = multi(5)
    parts = [
        metrics.confusion_multi_label(t, g, w) for t, g, w in zip(true[:, None], guess[:, None], weight[:, None], strict=True)
    ]
    np.testing.assert_array_equal(sum(parts), metrics.confusion_multi_label(true, guess, weight))


def test_padding_of_any_content_counts_nowhere():
    """Not even a prediction that is not a number of its class."""
    true, guess = np.array([0, 1, 5, 5]), np.array([0, 2, 0, 5])
    np.testing.assert_array_equal(
        metrics.confusion(true, guess, np.array([1, 1, 0, 0.0]), 6), metrics.confusion(true[:2], guess[:2], np.ones(2), 6)
    )


@pytest.mark.parametrize("matrix", [np.zeros((6, 6)), np.zeros((6, 2, 2))], ids=["single", "multi"])
def test_nothing_at_all_scores_0(matrix):
    scores = metrics.scores(matrix, CLASSES)
    assert scores["absent_classes"] == list(CLASSES)
    assert {value for value in scores.values() if isinstance(value, float)} == {0.0}


def test_no_label_anywhere_is_right_but_has_no_f1():
    empty = np.zeros((4, 6))
    scores = metrics.scores(metrics.confusion_multi_label(empty, empty, np.ones(4)).numpy(), CLASSES)
    assert scores["overall_accuracy"] == 1 and scores["overall_f1"] == scores["average_f1"] == 0


def test_one_class_only_has_no_kappa_to_speak_of():
    scores = metrics.scores(np.diag([7.0, 0, 0]), ("A", "B", "C"))
    assert scores["overall_accuracy"] == scores["average_f1"] == 1 and scores["kappa"] == 0


def test_counts_stay_exact_beyond_float32():
    """180,662 patches of a large scene add up to more than 2**24, where float32 stops counting."""
    total = tf.constant([[2.0**24]], tf.float64) + metrics.confusion(
        tf.zeros(1, tf.int64), tf.zeros(1, tf.int64), tf.ones(1), 1
    )
    assert total.dtype == tf.float64 and int(total[0, 0]) == 2**24 + 1


@pytest.mark.parametrize("in_graph", [False, True])
def test_same_in_a_graph_as_eagerly(in_graph):
    call = tf.function(metrics.confusion) if in_graph else metrics.confusion
    true, guess, weight = single(3)
    expected = sklearn.metrics.confusion_matrix(true, guess, labels=range(6), sample_weight=weight)
    np.testing.assert_array_equal(call(tf.constant(true), tf.constant(guess), tf.constant(weight), 6), expected)
