"""Losses of dense labels by name, each a value per patch over its valid pixels; and weights of classes by frequency."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfrs.errors import UserError, unknown

FOCUS = 2.0  # exponent of the focal loss, the value its authors recommend

# (class ids (B, H, W), logits (B, H, W, classes), valid (B, H, W) 0 or 1, class weights (classes,), smoothing) -> (B,)
Loss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, float], tf.Tensor]


def cross_entropy(target, logits, valid, weights, smoothing: float):
    """Categorical cross-entropy of a pixel times the weight of its class, mean over the valid pixels.

    The sum over the classes is not divided by their number, and the mean not by the sum of the weights.
    """
    return _mean(_entropy(target, logits, smoothing) * tf.gather(weights, target), valid)


def focal(target, logits, valid, weights, smoothing: float):
    """Cross-entropy times (1 - probability of the true class)^2 (Lin et al. 2017), weighted as `cross_entropy`."""
    missing = 1 - tf.exp(-_entropy(target, logits, 0.0))
    return _mean(missing**FOCUS * _entropy(target, logits, smoothing) * tf.gather(weights, target), valid)


def dice(target, logits, valid, weights, smoothing: float):
    """1 - soft Dice coefficient over the valid pixels of a patch, mean over the classes in its reference."""
    return _mean(1 - _dice(target, logits, valid), _present(target, logits, valid))


def jaccard(target, logits, valid, weights, smoothing: float):
    """1 - soft Jaccard index over the valid pixels of a patch, mean over the classes in its reference."""
    coefficient = _dice(target, logits, valid)
    return _mean(1 - coefficient / (2 - coefficient), _present(target, logits, valid))


LOSSES: dict[str, Loss] = {loss.__name__: loss for loss in (cross_entropy, focal, dice, jaccard)}
SMOOTHED = ("cross_entropy", "focal")  # means over pixels, with class weights and smoothed labels


def _entropy(target, logits, smoothing: float):
    """Cross-entropy (B, H, W) of each pixel."""
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
    if smoothing:
        # The share of the target that is spread over all classes meets the mean of their negative log probabilities.
        entropy = (1 - smoothing) * entropy + smoothing * (tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1))
    return entropy


def _dice(target, logits, valid):
    """Soft Dice coefficient (B, classes), 2 sum(p t) / (sum p + sum t)."""
    hot = tf.one_hot(target, logits.shape[-1]) * valid[..., None]
    return 1 - keras.losses.dice(hot, tf.nn.softmax(logits) * valid[..., None], axis=(1, 2))


def _present(target, logits, valid):
    """Which classes (B, classes) the valid pixels of a patch have, 0 or 1."""
    return tf.reduce_max(tf.one_hot(target, logits.shape[-1]) * valid[..., None], (1, 2))


def _mean(values, weights):
    """Weighted mean (B,) over all axes but the first; 0 where all weights are."""
    axes = list(range(1, len(values.shape)))
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights, axes), tf.reduce_sum(weights, axes))


def parse(spec: str) -> tuple[tuple[float, str], ...]:
    """Factors and names of a sum of losses such as `cross_entropy+0.5*dice`.

    Raises:
        UserError: A name is unknown, or a factor is not a positive number.
    """
    terms = []
    for term in spec.split("+"):
        factor, star, name = term.strip().rpartition("*")
        if name.strip() not in LOSSES:
            raise unknown("loss", name.strip(), LOSSES)
        try:
            number = float(factor) if star else 1.0
        except ValueError:
            number = 0.0
        if not 0 < number < np.inf:
            raise UserError(f"loss {spec!r}: the factor {factor!r} is no positive number; write e.g. cross_entropy+0.5*dice")
        terms.append((number, name.strip()))
    return tuple(terms)


def _inverse(frequency):
    return 1 / frequency


# Name -> weights of the classes that occur from their shares of the pixels. All but `none` are proportional to 1 / frequency.
CLASS_WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": np.ones_like,
    "inverse": _inverse,
    "sum_1000": lambda frequency: 1000 * _inverse(frequency) / _inverse(frequency).sum(),
    "balanced": lambda frequency: _inverse(frequency) / len(frequency),
    "median": lambda frequency: np.median(frequency) * _inverse(frequency),
}


def class_weights(pixels: np.ndarray, name: str) -> tuple[float, ...]:
    """A weight for each class from the numbers of its pixels (classes,); 0 for a class without a pixel.

    Args:
        name: `inverse`: 1 / frequency (Wenger et al. 2022, section 4). `sum_1000`: the same scaled to a sum of 1000, as the
            weights that its authors published. `balanced`: scaled so that the mean over the pixels is 1. `median`: median
            frequency / frequency (Eigen & Fergus 2015). `none`: 1.

    Raises:
        UserError: The name is unknown, or there is no pixel.
    """
    if name not in CLASS_WEIGHTS:
        raise unknown("class weights", name, CLASS_WEIGHTS)
    if not np.any(pixels):
        raise UserError("no pixel of the training split has a class; is every class ignored?")
    weights = np.zeros(len(pixels))
    occurs = np.asarray(pixels) > 0
    weights[occurs] = CLASS_WEIGHTS[name](pixels[occurs] / np.sum(pixels))
    return tuple(weights.tolist())
