"""Grey-level co-occurrence entropy of the surroundings of every pixel (Haralick et al. 1973), as a TensorFlow graph."""

import math

import tensorflow as tf

NO_PAIR = 255  # beyond the 136 kinds of pairs of 16 levels


def cooccurrence_entropy(grey: tf.Tensor, levels: int, window: int, offsets: tuple[tuple[int, int], ...]) -> tf.Tensor:
    """Entropy -sum p log p, in nats, of the symmetric co-occurrence matrix of the window around each pixel.

    Args:
        grey: Level of each pixel, (B, H, W) int32 in 0..levels-1; a negative one is no data and takes part in no pair.
        window: Side of the window, odd. At the image's edge it is clipped: a pair counts if both pixels are inside both.
        offsets: (row, column) from one pixel of a pair to the other; the counts of all are summed into one matrix.

    Returns:
        (B, H, W) float32 in 0..2 log(levels); 0 where there is no pair.
    """
    # Three compiled functions and not one: within one, XLA computes every sum anew for each value that needs it.
    # Measured on one core, 8 levels, window 7, 256x256: 2.7 ms a patch against 6.4 in one, and over 25 without XLA.
    margin = window // 2
    grey = tf.pad(grey, [[0, 0], [margin, margin], [margin, margin]], constant_values=-1)
    return _entropy(_count_columns(_pairs(grey, offsets), levels, window, offsets), levels, window)


@tf.function(jit_compile=True)
def _pairs(grey, offsets):
    """Per offset the kind of pair that begins at each place: both orders of two levels are one kind."""
    kinds = []
    for row, column in offsets:
        first = grey[:, max(0, -row) : -max(0, row) or None, max(0, -column) : -max(0, column) or None]
        second = grey[:, max(0, row) : -max(0, -row) or None, max(0, column) : -max(0, -column) or None]
        low, high = tf.minimum(first, second), tf.maximum(first, second)
        kinds.append(tf.cast(tf.where(low >= 0, _kind(low, high), NO_PAIR), tf.uint8))
    return kinds


def _kind(low, high):
    return high * (high + 1) // 2 + low


@tf.function(jit_compile=True)
def _count_columns(pairs, levels, window, offsets):
    """Pairs of each kind in the rows of the window: {columns that remain to be summed: counts (kinds, B, H, W + ...)}."""
    most = sum((window - abs(row)) * (window - abs(column)) for row, column in offsets)
    dtype = tf.uint8 if most <= tf.uint8.max else tf.uint16 if most <= tf.uint16.max else tf.int32
    kinds = tf.cast(tf.reshape(tf.range(_kind(0, levels)), (-1, 1, 1, 1)), tf.uint8)
    counts = {}
    for pair, (row, column) in zip(pairs, offsets, strict=True):
        columns = _slide(tf.cast(pair == kinds, dtype), window - abs(row), axis=2)
        counts[window - abs(column)] = counts.get(window - abs(column), 0) + columns
    return counts


@tf.function(jit_compile=True)
def _entropy(counts, levels, window):
    counts = tf.unstack(sum(_slide(columns, width, axis=3) for width, columns in counts.items()))
    counts = [tf.cast(count, tf.float32) for count in counts]  # a sum of planes: reducing an axis took 9 ms for 1
    pairs = tf.maximum(sum(counts), 1.0)
    on_diagonal = {_kind(level, level) for level in range(levels)}
    # A pair of two levels stands half in each of two cells: log(n / 2).
    total = sum(
        count * (tf.math.log(tf.maximum(count, 1.0)) - (0.0 if kind in on_diagonal else math.log(2.0)))
        for kind, count in enumerate(counts)
    )
    return tf.maximum(tf.math.log(pairs) - total / pairs, 0.0)


def _slide(values, size: int, axis: int):
    """Sums over `size` neighbours along an axis, where all of them are there."""
    before = (slice(None),) * axis
    return sum(values[(*before, slice(start, start + 1 - size or None))] for start in range(size))
