"""Patches beside their reference and prediction, as a figure."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from tfrs import plots
from tfrs.sensors import Sensor
from tfrs.tasks import Task

PATCHES = 8


def gallery(dataset: tf.data.Dataset, model: keras.Model, task: Task, sensors: Mapping[str, Sensor]) -> plots.Figure:
    """The first patches of a data set, with labels (Schmitt & Wu 2021, Fig. 3) or maps (Wenger et al. 2022, Fig. 6)."""
    images, target, weight = next(iter(dataset))
    count = min(PATCHES, int(tf.reduce_sum(weight)))  # what fills a batch weighs 0 and comes last
    images, target = {name: image[:count] for name, image in images.items()}, target[:count].numpy()
    predicted = task.probabilities(model(images, training=False)).numpy()
    shown = {}
    for name, image in images.items():
        bands = sensors[name].display()
        shown[f"{name} {' '.join(bands)}"] = plots.displayable(image.numpy()[:, sensors[name].index(bands)])
    if task.dense:
        return plots.maps(shown | task.maps(target, predicted), task.scheme)
    return plots.patches(shown, [task.decode(row) for row in target], [task.decode(row) for row in predicted])
