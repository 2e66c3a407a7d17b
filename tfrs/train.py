"""Training: one explicit loop over `strategy.run`, with everything needed to go on after an interruption."""

import contextlib
import csv
import math
import os
import shutil
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfrs import assemble, evaluate, metrics
from tfrs.board import Board, write_settings
from tfrs.errors import UserError
from tfrs.experiment import CHECKPOINTS, SEGMENT, Experiment, is_begun, is_finished, open_run, place_run
from tfrs.export import export
from tfrs.progress import progress
from tfrs.records import Records
from tfrs.segmentation import Segmentation
from tfrs.storage import replacing
from tfrs.tasks import Task

TENSORBOARD = "tensorboard"
MONITOR = "average_f1"  # of the validation split; not its loss, which the padding of Keras would enter


def run(experiment: Experiment, kind: str = "classify") -> dict[str, float]:
    """Train, evaluate on test and export; continue where the same call was interrupted.

    Returns:
        The scores of `report.json` that are single numbers.

    Raises:
        UserError: Settings that do not fit each other, the records or the devices; a loss that is not finite.
    """
    if (experiment.task == Segmentation.name) != (kind == SEGMENT):
        raise UserError(f"--task={experiment.task} is not for this command: segmentation is python -m experiments.{SEGMENT}'s")
    experiment = place_run(experiment, kind)
    strategy = assemble.devices(experiment)
    records = Records(experiment.records)
    for split in ("train", "val"):
        if split not in records.manifest["splits"]:
            raise UserError(f"{records.directory} has no {split} split; build records with --val_fraction or --split_file")
    task = assemble.task(experiment, records)
    with strategy.scope():
        # A run that is continued has weights of its own; the file of pretrained ones may be gone.
        model = assemble.model(experiment, records, task, pretrained=not is_begun(Path(experiment.run_dir)))
        optimizer = assemble.optimizer(experiment, -(-records.count("train") // experiment.batch_size))
        optimizer.build(model.trainable_variables)
    # Wrong settings show before a folder is made.
    for split in ("train", "val"):
        images, *_ = assemble.batches(experiment, records, task, split, training=split == "train").element_spec
        _check_sizes(model, images)
    experiment, folder = open_run(experiment, kind)
    if is_finished(folder):
        print(f"run {folder} is finished already: nothing to train")
    else:
        print(f"run {folder}: {model.count_params():,} parameters on {strategy.num_replicas_in_sync} device(s)")
        fit(experiment, folder, records, task, model, optimizer, strategy)
        best = evaluate.best_model(experiment, folder, records, task)
        scores = evaluate.report(experiment, folder, records, task, best, evaluate.final_split(records))
        write_settings(folder / TENSORBOARD, experiment, scores)
        export(experiment, folder, records, task, best, scores)
    scores = evaluate.read_report(folder)
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def _check_sizes(model: keras.Model, images: dict[str, tf.TensorSpec]) -> None:
    for tensor in model.inputs:
        if not tf.TensorShape(tensor.shape).is_compatible_with(images[tensor.name].shape):
            size, given = (f"{s[2]}x{s[3]}" for s in (tensor.shape, images[tensor.name].shape))
            raise UserError(f"{model.name} takes patches of {size} only, not {given}; --augment=crop:SIZE makes them smaller")


def fit(
    experiment: Experiment,
    folder: Path,
    records: Records,
    task: Task,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    strategy: tf.distribute.Strategy,
) -> None:
    """Run the epochs that are left, until the last or until `patience` epochs brought no better score."""
    epoch, best_epoch = (tf.Variable(0, trainable=False) for _ in range(2))
    best = tf.Variable(-1.0, trainable=False, dtype=tf.float64)
    # Keras does not show the random state of its layers (dropout) to checkpoints.
    weights = {id(variable) for variable in model.weights}
    random = [variable.value for variable in model.variables if id(variable) not in weights]
    # The state is saved together with the weights, so a restart knows the best score as well as the epoch.
    checkpoint = tf.train.Checkpoint(
        model=model, optimizer=optimizer, random=random, epoch=epoch, best=best, best_epoch=best_epoch
    )
    manager = tf.train.CheckpointManager(checkpoint, str(folder / CHECKPOINTS), max_to_keep=2, checkpoint_name="epoch")
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_consumed()
        print(f"continuing after epoch {int(epoch)} (best {MONITOR} {float(best):.4f} of epoch {int(best_epoch)})")

    train_step = make_train_step(strategy, model, optimizer, task, experiment.decay)
    measure = evaluate.make_measure(strategy, model, task)
    train = assemble.batches(experiment, records, task, "train", training=True, epoch=int(epoch))
    steps, train = len(train), strategy.experimental_distribute_dataset(train)
    val = assemble.batches(experiment, records, task, "val")
    count = records.count("train")
    history = History(folder / "history.csv", int(epoch))
    with Board(folder / TENSORBOARD, task, assemble.sensors(experiment, records)) as board:
        board.graph(train_step.get_concrete_function(*train.element_spec).graph)
        while int(epoch) < experiment.epochs and int(epoch) - int(best_epoch) < experiment.patience:
            number = int(epoch.assign_add(1))
            start = time.perf_counter()
            loss = _train_epoch(train_step, train, steps, f"epoch {number}/{experiment.epochs}")
            seconds = time.perf_counter() - start
            if not math.isfinite(loss):
                raise UserError(
                    f"the training loss of epoch {number} is {loss}; the last good state is kept in {folder / CHECKPOINTS}. "
                    "Lower --learning_rate in a new --run_dir, or look for extreme values with tfrecords_builder show"
                )
            share_batch_statistics(strategy, model)
            matrix, val_loss = measure(val)
            scores = metrics.scores(matrix, task.scheme.classes)
            better = scores[MONITOR] > float(best)
            if better:
                best.assign(scores[MONITOR])
                best_epoch.assign(number)
            row = {
                "epoch": number,
                "loss": loss,
                "val_loss": val_loss,
                **{f"val_{name}": scores[name] for name in ("average_f1", "overall_f1", "overall_accuracy")},
                "learning_rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
                "seconds": seconds,
                "images_per_second": count / seconds,
            }
            with _storing(folder):
                if better:
                    _save_weights(model, folder / CHECKPOINTS / evaluate.BEST)
                    board.patches(number, val, model)
                history.append(row)
                board.epoch(row, scores)
                manager.save()
            print(
                f"epoch {number}/{experiment.epochs}: loss {loss:.4f}, val loss {val_loss:.4f}, "
                f"val average F1 {scores['average_f1']:.4f}, overall F1 {scores['overall_f1']:.4f}, "
                f"{row['images_per_second']:.1f} images/s, best epoch {int(best_epoch)}",
                flush=True,
            )


def _train_epoch(train_step, batches, steps: int, label: str) -> float:
    """Mean loss of an epoch over all that was learned from."""
    totals = tf.zeros(2, tf.float64)
    for batch in progress(iterable=batches, total=steps, unit="steps", desc=label, leave=False):
        totals += train_step(*batch)
    loss, size = totals.numpy()
    return float(loss / size)


def make_train_step(strategy: tf.distribute.Strategy, model: keras.Model, optimizer, task: Task, decay: float):
    """A step over a distributed batch (images, target, weight); returns the sums (2,) of its weighted losses and weights.

    A sample weighs as much as its `Task.size`, so that the loss of dense labels is the mean over the batch's valid pixels.
    """
    replicas = strategy.num_replicas_in_sync

    def replica_step(images, target, weight):
        weight = weight * task.size(target)
        size = tf.reduce_sum(weight)
        total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, size)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(task.loss(target, model(images, training=True)) * weight)
            # Summed and divided by the global weight: any number of replicas gives the gradient of the global mean.
            mean = tf.math.divide_no_nan(loss, total) + sum(model.losses) / replicas
            scaled = optimizer.scale_loss(mean)
        variables = model.trainable_variables
        gradients = tape.gradient(scaled, variables)
        gradients = [g + optimizer.scale_loss(decay / replicas * v) for g, v in zip(gradients, variables, strict=True)]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return tf.cast(tf.stack([loss, size]), tf.float64)

    @tf.function
    def train_step(images, target, weight):
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica_step, (images, target, weight)), axis=None)

    return train_step


def share_batch_statistics(strategy: tf.distribute.Strategy, model: keras.Model) -> None:
    """Give every replica the mean of the replicas' moving averages.

    In Keras 3.15 each replica updates a copy of its own, and a checkpoint or export would hold only the first one's.
    """
    if strategy.num_replicas_in_sync > 1:
        for variable in model.non_trainable_variables:
            copies = strategy.experimental_local_results(variable.value)
            variable.value.assign(np.mean([copy.numpy() for copy in copies], axis=0))


@contextlib.contextmanager
def _storing(folder: Path):
    """Turn what h5py and TensorFlow raise when they cannot write into one clear error, and leave no half-written file."""
    try:
        yield
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        for left in [*(folder / CHECKPOINTS).glob("saving-*"), *(folder / CHECKPOINTS).glob("*_temp")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        reason = "the disk is full" if "No space left" in str(error) or "errno = 28" in str(error) else str(error)
        raise UserError(
            f"{folder}: the state of the epoch cannot be written ({reason}); the last one is kept: "
            "mend it and run the same command again"
        ) from error


def _save_weights(model: keras.Model, path: Path) -> None:
    temporary = path.with_name(f"saving-{path.name}")
    temporary.parent.mkdir(exist_ok=True)
    model.save_weights(temporary)
    os.replace(temporary, path)


class History:
    """`history.csv`: a row per epoch; rows after the epoch that a run continues from are dropped."""

    def __init__(self, path: Path, epoch: int):
        self.path, self.rows = path, []
        if path.exists():
            with open(path, newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epoch]

    def append(self, row: dict) -> None:
        self.rows.append(row)
        with replacing(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows(self.rows)
