"""What a run needs before it begins, looked at as a whole, so that wrong settings show before anything is written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfrs import assemble, checkpoints, freezing, hosts, storage, transfer
from tfrs.epoch import check_steps, steps_of
from tfrs.errors import UserError
from tfrs.experiment import CHECKPOINTS, Experiment, is_begun, is_finished
from tfrs.records import Records
from tfrs.tasks import Task


@dataclass(frozen=True)
class Training:
    """The settings of a run, what they made, and how far it is.

    Attributes:
        encoder: Layers that stay as they are in the first epochs.
        plan: Number of batches (steps,) that each step of an epoch takes.
        val: This process's part of the validation split.
    """

    experiment: Experiment
    folder: Path
    records: Records
    task: Task
    strategy: tf.distribute.Strategy
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    encoder: Sequence[keras.Layer]
    plan: np.ndarray
    val: tf.data.Dataset
    state: checkpoints.State
    manager: tf.train.CheckpointManager

    def place(self) -> str:
        """How far it is, in words."""
        epoch, step = int(self.state.epoch), int(self.state.step)
        return f"epoch {epoch}" + (f" and step {step} of {len(self.plan)} of the next" if step else "")


def prepare(experiment: Experiment, folder: Path, strategy: tf.distribute.Strategy) -> Training:
    """Everything that a run needs, before anything of it is written.

    Raises:
        UserError: Settings that do not fit each other, the records or the other processes.
    """
    records = assemble.records(experiment)
    # A run that is continued has weights of its own; what it started from may be gone.
    begun = is_begun(folder)
    facts = {
        "flags": experiment.to_flags(),
        "records": json.dumps(records.manifest),
        "file systems under the records": str(storage.is_remote(records.directory)),  # on which --read=auto depends
        "states in the folder of the run": (folder / CHECKPOINTS / "checkpoint").read_text() if begun else "",
        "results in the folder of the run": str(is_finished(folder)),
    }
    hosts.agree(strategy, facts)
    for split in ("train", "val"):
        if split not in records.splits:
            raise UserError(f"{records.directory} has no {split} split; build records with --val_fraction or --split_file")
    task = assemble.task(experiment, records)
    plan = np.array(steps_of(experiment, records.count("train")), np.int32)
    with strategy.scope():
        model = assemble.model(experiment, records, task, pretrained=not begun and not experiment.init_from)
        if experiment.init_from and not begun:
            inputs = assemble.sensors(experiment, records)
            channels = {name: sensor.channels for name, sensor in inputs.items()}
            network = transfer.Network(model, experiment, channels, task.scheme.classes)
            left = transfer.start_from(Path(experiment.init_from), network)
            print(f"weights of {experiment.init_from}" + (f"; not for {'; '.join(left)}" if left else ""))
        optimizer = assemble.optimizer(experiment, len(plan))
        optimizer.build(model.trainable_variables)
    check_steps(experiment, records.count("train"))
    encoder = freezing.encoder(experiment, task, model)
    val = assemble.batches(experiment, records, task, "val", worker=hosts.place(strategy))
    for batches in (assemble.batches(experiment, records, task, "train", training=True), val):
        _check_sizes(model, batches.element_spec[0])
    state = checkpoints.begin()
    manager = checkpoints.manage(folder, model, optimizer, state)
    return Training(experiment, folder, records, task, strategy, model, optimizer, encoder, plan, val, state, manager)


def _check_sizes(model: keras.Model, images: dict[str, tf.TensorSpec]) -> None:
    for tensor in model.inputs:
        if not tf.TensorShape(tensor.shape).is_compatible_with(images[tensor.name].shape):
            size, given = (f"{s[2]}x{s[3]}" for s in (tensor.shape, images[tensor.name].shape))
            raise UserError(f"{model.name} takes patches of {size} only, not {given}; --augment=crop:SIZE makes them smaller")


def describe(training: Training) -> None:
    """Print what will be trained."""
    records, strategy = training.records, training.strategy
    if records.selection:
        print(f"records chosen ({records.selection}): {', '.join(f'{records.count(s):,} {s}' for s in records.splits)}")
    if training.experiment.read == "auto" and storage.is_remote(records.directory):
        print(f"{records.directory} is on a network file system: reading in sequence (--read=random maps it all the same)")
    of = f" of {count} processes" if (count := hosts.place(strategy)[1]) > 1 else ""
    parameters = training.model.count_params()
    print(f"run {training.folder}: {parameters:,} parameters on {strategy.num_replicas_in_sync} device(s){of}", flush=True)
