"""Entropy of co-occurrence against scikit-image, one window at a time."""

import math

import numpy as np
import pytest
import tensorflow as tf
from cooccurrence import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs.indices import Entropy
from tfrs.models.texture import cooccurrence_entropy

FOUR = Entropy.offsets


def entropy(grey, levels, window, offsets):
    return cooccurrence_entropy(tf.constant(grey, tf.int32), levels, window, offsets).numpy()


def smooth(rng, shape, levels):
    """Levels that neighbours often share, and a tenth of the pixels without data."""
    coarse = rng.integers(0, levels, (shape[0], -(-shape[1] // 3), -(-shape[2] // 4)))
    grey = np.kron(coarse, np.ones((1, 3, 4), int))[:, : shape[1], : shape[2]]
    grey = np.where(rng.random(shape) < 0.3, rng.integers(0, levels, shape), grey)
    return np.where(rng.random(shape) < 0.1, -1, grey)


@pytest.mark.parametrize(
    ("shape", "levels", "window", "offsets"),
    [
        ((2, 19, 16), 8, 7, FOUR),
        ((1, 12, 21), 16, 5, FOUR),
        ((1, 20, 20), 4, 9, FOUR),  # 272 pairs do not fit 8 bits
        ((2, 11, 8), 5, 5, ((0, 1),)),
        ((1, 14, 9), 8, 7, ((2, 1), (-1, 3), (0, -2), (6, 0))),
        ((1, 3, 2), 8, 7, FOUR),  # smaller than the window
        ((1, 1, 1), 8, 3, FOUR),
    ],
    ids=str,
)
def test_every_pixel_is_as_scikit_image_has_it(shape, levels, window, offsets):
    grey = smooth(np.random.default_rng(0), shape, levels)
    expected = np.stack([reference(image, levels, window, offsets) for image in grey])
    np.testing.assert_allclose(entropy(grey, levels, window, offsets), expected, atol=2e-6)


@settings(max_examples=5)
@given(
    st.tuples(st.just(1), st.integers(1, 9), st.integers(1, 9)),
    st.integers(2, 16),
    st.sampled_from([3, 5, 13]),
    st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)).filter(any), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_any_settings(shape, levels, window, offsets, seed):
    grey = smooth(np.random.default_rng(seed), shape, levels)
    expected = reference(grey[0], levels, window, offsets)
    np.testing.assert_allclose(entropy(grey, levels, window, tuple(offsets))[0], expected, atol=2e-6)


def test_entropy_of_a_chessboard_by_hand():
    """Sideways neighbours always differ: two cells of 1/2. Diagonal ones are equal: one cell per colour."""
    board = np.indices((6, 6)).sum(axis=0)[None] % 2
    np.testing.assert_allclose(entropy(board, 2, 3, ((0, 1), (1, 0))), math.log(2), atol=1e-6)
    inner = entropy(board, 2, 3, ((1, 1), (1, -1)))[0, 1:-1, 1:-1]  # 4 pairs of each colour
    np.testing.assert_allclose(inner, math.log(2), atol=1e-6)


def test_constant_and_empty_images_have_exactly_no_entropy():
    for level in (3, -1):
        assert not entropy(np.full((1, 9, 9), level), 8, 7, FOUR).any()


def test_large_counts_are_exact():
    """At window 31, 930 pairs of one kind: beyond 8 bits."""
    halves = np.zeros((1, 40, 40), int)
    halves[:, :, 20:] = 1
    expected = reference(halves[0], 2, 31, ((1, 0),))
    np.testing.assert_allclose(entropy(halves, 2, 31, ((1, 0),))[0], expected, atol=2e-6)
