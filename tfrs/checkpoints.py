"""The state of a run on disk: whole or not there, and enough to go on as if nothing had happened."""

import contextlib
import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfrs.errors import UserError
from tfrs.experiment import CHECKPOINTS, is_begun


@dataclass(frozen=True)
class State:
    """How far a run is: epochs that are done, steps of the next one, the epoch with the best score, and that after which the
    learning rate was lowered last.

    `sums` (4,) are those of these steps: losses and weights of their samples, seconds waited for data, seconds.
    """

    epoch: tf.Variable
    step: tf.Variable
    sums: tf.Variable
    best: tf.Variable
    best_epoch: tf.Variable
    lowered: tf.Variable


def begin() -> State:
    """The state of a run that has done nothing."""
    epoch, step, best_epoch, lowered = (tf.Variable(0, trainable=False) for _ in range(4))
    sums, best = (tf.Variable(start, trainable=False, dtype=tf.float64) for start in ([0.0] * 4, -1.0))
    return State(epoch, step, sums, best, best_epoch, lowered)


def manage(folder: Path, model: keras.Model, optimizer: keras.optimizers.Optimizer, state: State) -> tf.train.CheckpointManager:
    """Checkpoints of a run, of its model and what else is needed to go on.

    The state is saved together with the weights, so a restart knows the best score as well as the epoch.

    Raises:
        UserError: TensorFlow's list of them is damaged.
    """
    # Keras does not show the random state of its layers (dropout) to checkpoints.
    weights = {id(variable) for variable in model.weights}
    random = [variable.value for variable in model.variables if id(variable) not in weights]
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, random=random, **vars(state))
    try:
        return tf.train.CheckpointManager(checkpoint, str(folder / CHECKPOINTS), max_to_keep=2, checkpoint_name="state")
    except ValueError as error:
        raise UserError(f"{folder / CHECKPOINTS}/checkpoint: no list of states; delete {folder} to train anew") from error


def restore(manager: tf.train.CheckpointManager, folder: Path) -> bool:
    """Go back to the newest state that can be read, and say which ones cannot; whether there is one.

    Raises:
        UserError: A run has been saved, but no state of it can be read.
    """
    for path in reversed(manager.checkpoints):
        try:
            manager.checkpoint.restore(path).assert_consumed()
        except (tf.errors.OpError, IndexError, ValueError, AssertionError) as error:  # IndexError: of a truncated file
            reason = str(error).strip().splitlines()[0]
            print(f"{path} cannot be restored ({reason}); the state before it is tried")
        else:
            return True
    if is_begun(folder):
        raise UserError(f"{folder / CHECKPOINTS}: no state there can be restored; delete {folder} to train anew")
    return False


def advance(state: State, rows: np.ndarray, seconds: float) -> None:
    """Count steps, of each of which there is a row (3,) as of `steps.make_train_steps`, that took so many seconds."""
    timed = np.pad(rows, ((0, 0), (0, 1)))
    timed[-1, 3] = seconds
    # One after the other, so that it does not matter to the last digit where a run was interrupted.
    state.sums.assign(functools.reduce(np.add, timed, state.sums.numpy()))
    state.step.assign_add(len(rows))


def begin_epoch(state: State, better: float | None) -> None:
    """Count an epoch whose steps are done, with its score where it is better than all before."""
    state.epoch.assign_add(1)
    state.step.assign(0)
    state.sums.assign([0.0] * 4)
    if better is not None:
        state.best.assign(better)
        state.best_epoch.assign(state.epoch)


@contextlib.contextmanager
def storing(folder: Path):
    """Turn what h5py and TensorFlow raise when they cannot write into one clear error, and leave no half-written file."""
    try:
        yield
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        for left in [*(folder / CHECKPOINTS).glob("saving-*"), *(folder / CHECKPOINTS).glob("*_temp")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        reason = "the disk is full" if "No space left" in str(error) or "errno = 28" in str(error) else str(error)
        raise UserError(
            f"{folder}: the state of the run cannot be written ({reason}); the last one is kept: "
            "mend it and run the same command again"
        ) from error


def save_weights(model: keras.Model, path: Path) -> None:
    """Write the weights of a model as a whole."""
    temporary = path.with_name(f"saving-{path.name}")
    temporary.parent.mkdir(exist_ok=True)
    model.save_weights(temporary)
    os.replace(temporary, path)
