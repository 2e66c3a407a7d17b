"""Training steps over a data set, as an epoch has them."""

import numpy as np
import tensorflow as tf

from tfrs.steps import distribute


def rows(strategy, train_steps, dataset, accumulate=1, per_call=1):
    """What `tfrs.steps.make_train_steps` returns (steps, 3), called with so many steps at a time."""
    count, iterator, found = len(dataset), distribute(strategy, dataset), np.zeros((1, 3))
    sizes = [min(accumulate, count - start) for start in range(0, count, accumulate)]
    parts = []
    for start in range(0, len(sizes), per_call):
        found = train_steps(iterator, tf.constant(sizes[start : start + per_call]), tf.constant(found)).numpy()
        parts.append(found)
    return np.concatenate(parts)
