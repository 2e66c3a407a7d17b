import math

import keras
import pytest
import tensorflow as tf
from small_records import write_records

from tfrs import assemble
from tfrs.errors import UserError
from tfrs.experiment import Experiment


def test_devices_cannot_be_split_after_their_first_use():
    tf.zeros(1)
    with pytest.raises(UserError, match=r"--cpu_devices must be set before TensorFlow is used"):
        assemble.devices(Experiment(cpu_devices=2))


TASK = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        ({"strategy": "miror"}, {}, r"unknown strategy 'miror'\. Did you mean 'mirrored'\?"),
        ({"strategy": "one_device", "cpu_devices": 2}, {}, r"--cpu_devices is for --strategy=mirrored, not one_device"),
        ({"strategy": "multi_worker"}, {}, r"--strategy=multi_worker needs TF_CONFIG, or the tasks of SLURM's srun"),
        ({}, {"TF_CONFIG": TASK}, r"one of 2 processes by TF_CONFIG or srun: give --strategy=multi_worker to"),
        ({}, {"TF_CONFIG": "x"}, r"TF_CONFIG=x cannot be used"),
    ],
    ids=str,
)
def test_devices_that_cannot_be(monkeypatch, settings, environment, message):
    for name in ("TF_CONFIG", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        assemble.devices(Experiment(**settings))


def test_one_device_and_a_task_that_is_alone(monkeypatch):
    assert isinstance(assemble.devices(Experiment(strategy="one_device")), tf.distribute.OneDeviceStrategy)
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}')
    assert isinstance(assemble.devices(Experiment()), tf.distribute.MirroredStrategy)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1.5])
def test_learning_rate_over_the_steps(schedule, warmup):
    """Linear from 0, then constant or half a cosine down to 0 at the last step."""
    experiment = Experiment(learning_rate=0.2, schedule=schedule, warmup_epochs=warmup, epochs=4)
    optimizer, begin = assemble.optimizer(experiment, 10), round(10 * warmup)
    optimizer.build([keras.Variable(0.0)])
    for step in range(41):
        optimizer.iterations.assign(step)
        rate = 0.2 if schedule == "constant" else 0.1 * (1 + math.cos(math.pi * (step - begin) / (40 - begin)))
        assert float(optimizer.learning_rate) == pytest.approx(0.2 * step / begin if step < begin else rate, abs=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "nadam", "rmsprop", "sgd"])
def test_optimizers_by_name(name):
    made = assemble.optimizer(Experiment(optimizer=name, learning_rate=0.25), 1)
    assert type(made).__name__.lower() == name and float(made.learning_rate) == 0.25


def test_a_fold_needs_the_number_of_folds(tmp_path):
    records = write_records(tmp_path, train=3)
    with pytest.raises(UserError, match=r"--fold=2 needs --folds"):
        assemble.records(Experiment(records=str(records.directory), fold=2))
