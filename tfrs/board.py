"""What TensorBoard shows of a run."""

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api

from tfrs import plots
from tfrs.evaluate import heads
from tfrs.experiment import Experiment
from tfrs.gallery import gallery
from tfrs.sensors import Sensor
from tfrs.tasks import Task

SCORES = ("average_f1", "overall_f1", "weighted_f1", "overall_accuracy", "average_accuracy", "mean_iou", "kappa")


class Board:
    """Scalars, F1 and IoU per class, patches with their labels, and the graph, under `<run>/tensorboard`; without a folder
    nothing of it.
    """

    def __init__(self, folder: Path | None, task: Task, sensors: Mapping[str, Sensor]):
        self.writer = tf.summary.create_file_writer(str(folder)) if folder else tf.summary.create_noop_writer()
        self.task, self.sensors = task, sensors

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.writer.close()

    def epoch(self, row: dict, scores: dict) -> None:
        """A row of `history.csv` and the validation scores that belong to it, `val` for the main head of several."""
        with self.writer.as_default(step=row["epoch"]):
            tf.summary.scalar("loss/train", row["loss"])
            tf.summary.scalar("loss/val", row["val_loss"])
            for i, head in enumerate(heads(scores)):
                for name in SCORES:
                    if name in head:  # multi-labels have no kappa
                        tf.summary.scalar(f"val_{head['scheme']}/{name}" if i else f"val/{name}", head[name])
                for name, row_of_class in head["per_class"].items():
                    for score in ("f1", "iou"):
                        if row_of_class[score] is not None:
                            tf.summary.scalar(f"val_{score}/{name}", row_of_class[score])
            tf.summary.scalar("training/learning_rate", row["learning_rate"])
            tf.summary.scalar("training/images_per_second", row["images_per_second"])
            tf.summary.scalar("training/waiting", row["waiting"])
        self.writer.flush()

    def patches(self, epoch: int, dataset: tf.data.Dataset, model: keras.Model) -> None:
        """The first patches of a data set with their reference and prediction."""
        figure = gallery(dataset, model, self.task, self.sensors)
        with self.writer.as_default(step=epoch):
            tf.summary.image("val/patches", pixels(figure)[None])

    def graph(self, graph: tf.Graph) -> None:
        """A graph, such as that of the training step."""
        with self.writer.as_default(step=0):
            tf.summary.graph(graph)


def write_settings(folder: Path, experiment: Experiment, scores: Mapping[str, float]) -> None:
    """The settings of a run beside its final scores, for TensorBoard's HParams tab, which compares runs."""
    values = {name: value for name, value in vars(experiment).items() if name != "run_dir"}
    with contextlib.closing(tf.summary.create_file_writer(str(folder))) as writer, writer.as_default(step=0):
        api.hparams({name: ",".join(value) if isinstance(value, tuple) else value for name, value in values.items()})
        for name in SCORES:
            if name in scores:
                tf.summary.scalar(f"final/{name}", scores[name])


def pixels(figure) -> np.ndarray:
    """A Matplotlib figure as an array (H, W, 4) of uint8."""
    with io.BytesIO() as file:
        plots.save(figure, file)
        return tf.image.decode_png(file.getvalue(), channels=4).numpy()
