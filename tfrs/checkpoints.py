"""The state of a run on disk: whole or not there, and enough to go on as if nothing had happened."""

import contextlib
import os
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from tfrs.errors import UserError
from tfrs.experiment import CHECKPOINTS


def manage(folder: Path, model: keras.Model, **state) -> tf.train.CheckpointManager:
    """Checkpoints of a run, of its model and what else is needed to go on.

    The state is saved together with the weights, so a restart knows the best score as well as the epoch.
    """
    # Keras does not show the random state of its layers (dropout) to checkpoints.
    weights = {id(variable) for variable in model.weights}
    random = [variable.value for variable in model.variables if id(variable) not in weights]
    checkpoint = tf.train.Checkpoint(model=model, random=random, **state)
    return tf.train.CheckpointManager(checkpoint, str(folder / CHECKPOINTS), max_to_keep=2, checkpoint_name="epoch")


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
            f"{folder}: the state of the epoch cannot be written ({reason}); the last one is kept: "
            "mend it and run the same command again"
        ) from error


def save_weights(model: keras.Model, path: Path) -> None:
    """Write the weights of a model as a whole."""
    temporary = path.with_name(f"saving-{path.name}")
    temporary.parent.mkdir(exist_ok=True)
    model.save_weights(temporary)
    os.replace(temporary, path)
