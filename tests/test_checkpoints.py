import errno
import os
import resource

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrs import checkpoints
from tfrs.errors import UserError


@pytest.fixture
def run(tmp_path):
    """A function that makes a run anew, as another process does: its manager and its state; and where it is."""

    def make():
        image = keras.Input((3,))
        model = keras.Model(image, keras.layers.Dense(2)(image))
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        state = checkpoints.begin()
        return checkpoints.manage(tmp_path, model, optimizer, state), state, model

    return make, tmp_path


def save_epochs(make, count):
    manager, state, model = make()
    for number in range(1, count + 1):
        state.epoch.assign(number)
        model.layers[1].kernel.assign(np.full((3, 2), number, np.float32))
        manager.save()


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, spoil, os.remove], ids=lambda function: function.__name__)
@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_last_good_state_takes_the_place_of_a_damaged_one(run, capsys, damage, suffix):
    make, folder = run
    save_epochs(make, 3)
    names = {path.name for path in (folder / "checkpoints").glob("state-*")}
    assert names == {f"state-{n}.{end}" for n in (2, 3) for end in ("index", "data-00000-of-00001")}  # two are kept
    damage(folder / "checkpoints" / f"state-3.{suffix}")
    manager, state, model = make()
    assert checkpoints.restore(manager, folder)
    assert int(state.epoch) == 2 and (model.layers[1].kernel.numpy() == 2).all()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{folder}/checkpoints/state-3 cannot be restored (") and line.endswith("before it is tried")
    state.epoch.assign(3)
    manager.save()  # in the place of the damaged one
    manager, state, _ = make()
    assert checkpoints.restore(manager, folder) and int(state.epoch) == 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("names", "what"), [("state-*", ""), ("checkpoint", "/checkpoint")])
def test_no_state_that_can_be_read(run, names, what):
    make, folder = run
    save_epochs(make, 3)
    for path in (folder / "checkpoints").glob(names):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=rf"{folder}/checkpoints{what}: no .*; delete {folder} to train anew"):
        checkpoints.restore(make()[0], folder)


def test_run_that_has_saved_nothing(run):
    make, folder = run
    assert not checkpoints.restore(make()[0], folder)


def test_disk_that_takes_no_more_leaves_the_states_before(run):
    """A limit to the size of files stands for it: TensorFlow's own writing fails half-way."""
    make, folder = run
    save_epochs(make, 2)
    manager, *_ = make()
    checkpoints.restore(manager, folder)
    before, limits = sorted((folder / "checkpoints").iterdir()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        message = r"cannot be written \(.*File too large.*; the last one is kept"
        with pytest.raises(UserError, match=message), checkpoints.storing(folder):
            manager.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted((folder / "checkpoints").iterdir()) == before
    manager, state, _ = make()
    assert checkpoints.restore(manager, folder) and int(state.epoch) == 2


def test_full_disk_is_told(tmp_path):
    """As TensorFlow 2.21 says it, and Python."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for error in (tf.errors.ResourceExhaustedError(None, None, "x.tmp; No space left on device"), full):
        message = r"state of the run cannot be written \(the disk is full\); the last one is kept"
        with pytest.raises(UserError, match=message), checkpoints.storing(tmp_path):
            raise error
