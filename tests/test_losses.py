"""Losses against values worked out by hand or with NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from tfrs.errors import UserError
from tfrs.losses import LOSSES, class_weights, parse


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def batch():
    """Class ids, logits and valid pixels of three patches; of the last, no pixel is valid."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, (3, 4, 5)).astype(np.int32)  # class 3 does not occur
    valid = (rng.random((3, 4, 5)) < 0.6).astype(np.float32)
    valid[2] = 0
    return target, rng.normal(0, 2, (3, 4, 5, 4)).astype(np.float32), valid


def loss(name, batch, weights=(1.0, 1.0, 1.0, 1.0), smoothing=0.0):
    target, logits, valid = map(tf.constant, batch)
    return LOSSES[name](target, logits, valid, tf.constant(weights), smoothing).numpy()


def test_weighted_cross_entropy_by_hand():
    """Two valid pixels, probabilities 1/2 and 1/4 of their classes, weights 3 and 5: (3 ln 2 + 5 ln 4) / 2, whatever the
    number of classes, the sum of the weights and the pixel that is not valid.
    """
    probability = np.array([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]], np.float32)[None]
    batch = np.array([[[0, 1, 0]]], np.int32), np.log(probability), np.array([[[1, 1, 0]]], np.float32)
    assert loss("cross_entropy", batch, (3.0, 5.0, 7.0)) == pytest.approx([(3 * np.log(2) + 5 * np.log(4)) / 2], rel=1e-6)


def test_focal_loss_by_hand():
    """One pixel, probability 1/4 of its class of weight 3: 3 (3/4)^2 ln 4."""
    batch = np.array([[[1]]], np.int32), np.log(np.array([[[[0.75, 0.25]]]], np.float32)), np.ones((1, 1, 1), np.float32)
    assert loss("focal", batch, (1.0, 3.0)) == pytest.approx([3 * 0.75**2 * np.log(4)], rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_many_pixels(batch, smoothing):
    target, logits, valid = batch
    weights = np.array([1.0, 2.0, 0.5, 4.0], np.float32)
    smooth = np.eye(4)[target] * (1 - smoothing) + smoothing / 4
    entropy = -(smooth * np.log(softmax(logits))).sum(-1) * weights[target]
    expected = [entropy[i][valid[i] == 1].mean() for i in range(2)]
    assert loss("cross_entropy", batch, weights, smoothing) == pytest.approx([*expected, 0], rel=1e-5)


@pytest.mark.parametrize("name", ["dice", "jaccard"])
def test_region_losses(batch, name):
    target, logits, valid = batch
    expected = []
    for i in range(2):
        true, probability = np.eye(4)[target[i]] * valid[i][..., None], softmax(logits[i]) * valid[i][..., None]
        both = (true * probability).sum((0, 1))
        either = true.sum((0, 1)) + probability.sum((0, 1))
        coefficient = 2 * both / either if name == "dice" else both / (either - both)
        expected.append(1 - coefficient[true.any((0, 1))].mean())
    assert loss(name, batch) == pytest.approx([*expected, 0], rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_invalid_pixels_change_nothing(batch, name):
    target, logits, valid = batch
    rng = np.random.default_rng(1)
    hidden = valid == 0
    other = np.where(hidden, rng.integers(0, 3, target.shape), target).astype(np.int32)
    wild = np.where(hidden[..., None], rng.normal(0, 9, logits.shape), logits).astype(np.float32)
    np.testing.assert_allclose(loss(name, (other, wild, valid)), loss(name, batch), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_perfect_prediction_costs_nothing(batch, name):
    target, _, valid = batch
    certain = np.eye(4, dtype=np.float32)[target] * 60
    np.testing.assert_allclose(loss(name, (target, certain, valid)), 0, atol=1e-6)


def test_sums_of_losses():
    assert parse("cross_entropy") == ((1.0, "cross_entropy"),)
    assert parse("focal + 0.5*dice+2 * jaccard") == ((1.0, "focal"), (0.5, "dice"), (2.0, "jaccard"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cross_entropi", "unknown loss 'cross_entropi'. Did you mean 'cross_entropy'"),
        ("cross_entropy+", "unknown loss ''"),
        ("x*dice", "factor 'x' is no positive number"),
        ("-1*dice", "factor '-1' is no positive number"),
        ("nan*dice", "factor 'nan' is no positive number"),
    ],
)
def test_bad_sums(spec, message):
    with pytest.raises(UserError, match=message.replace("*", r"\*").replace("+", r"\+")):
        parse(spec)


def test_published_weights_sum_to_1000():
    """The ratios of the weights published for MultiSenGE's urban classes are those of the inverse frequencies."""
    published = np.array([365.66, 42.46, 71.37, 350.53, 168.57, 1.417])
    pixels = np.round(1e9 / published).astype(np.int64)
    np.testing.assert_allclose(class_weights(pixels, "sum_1000"), published, rtol=1e-3)


def test_weights_by_name():
    """Frequencies 1/2, 3/8, 1/8, and a class that does not occur."""
    pixels = np.array([4, 3, 0, 1])
    assert class_weights(pixels, "none") == (1, 1, 0, 1)
    assert class_weights(pixels, "inverse") == pytest.approx((2, 8 / 3, 0, 8))
    assert class_weights(pixels, "median") == pytest.approx((0.75, 1, 0, 3))
    balanced = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=np.repeat(np.arange(4), pixels))
    assert class_weights(pixels, "balanced") == pytest.approx((balanced[0], balanced[1], 0, balanced[2]))


def test_bad_weights():
    with pytest.raises(UserError, match=r"unknown class weights 'inverce'. Did you mean 'inverse'"):
        class_weights(np.array([1, 2]), "inverce")
    with pytest.raises(UserError, match="no pixel of the training split has a class"):
        class_weights(np.array([0, 0]), "inverse")
