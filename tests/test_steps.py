import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_steps import rows

from tfrs.labels import EUROSAT
from tfrs.steps import make_train_steps
from tfrs.tasks import SingleLabel

ROOT = Path(__file__).parents[1]


def test_step_is_adam_with_coupled_decay():
    """Against Adam written out in NumPy, float64 (Kingma & Ba 2015), for softmax regression; L2 added to the gradient."""
    rng = np.random.default_rng(0)
    rate, decay, epsilon = 0.01, 0.1, 1e-7
    kernel, bias = rng.normal(0, 0.3, (18, 10)), rng.normal(0, 0.3, 10)
    image = keras.Input((2, 3, 3), name="s1")
    dense = keras.layers.Dense(10)
    model = keras.Model({"s1": image}, dense(keras.layers.Flatten()(image)))
    dense.set_weights([kernel, bias])
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(model.trainable_variables)
    step = make_train_steps(tf.distribute.get_strategy(), model, optimizer, SingleLabel(EUROSAT, ("label",)), decay=decay)

    values = [kernel, bias]
    first, second = ([np.zeros_like(value) for value in values] for _ in range(2))
    for number in range(1, 5):
        images, target = rng.normal(size=(6, 2, 3, 3)).astype(np.float32), rng.integers(0, 10, 6)
        weight = np.array([1, 1, 0, 1, 0, 1], np.float32)
        batch = tf.data.Dataset.from_tensors(({"s1": images}, target, weight))
        ((loss, size, _),) = rows(tf.distribute.get_strategy(), step, batch)

        x, used = images.reshape(6, -1).astype(float), weight / weight.sum()
        logits = x @ values[0] + values[1]
        probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert size == weight.sum()
        assert loss / size == pytest.approx(-(used * np.log(probability[np.arange(6), target])).sum(), rel=1e-4)
        error = (probability - np.eye(10)[target]) * used[:, None]
        gradients = [x.T @ error, error.sum(axis=0)]
        for i, gradient in enumerate(gradients):
            gradient = gradient + decay * values[i]
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            scale = math.sqrt(1 - 0.999**number) / (1 - 0.9**number)
            values[i] = values[i] - rate * scale * first[i] / (np.sqrt(second[i]) + epsilon)
    for found, expected in zip(model.get_weights(), values, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("limit", [0.05, 100.0])
def test_gradients_are_clipped_by_their_common_norm_before_the_decay(limit):
    """Against softmax regression written out in NumPy, one step of gradient descent."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(0, 0.3, (6, 10)), rng.normal(0, 0.3, 10)
    image = keras.Input((6,), name="s1")
    dense = keras.layers.Dense(10)
    model = keras.Model({"s1": image}, dense(image))
    dense.set_weights([kernel, bias])
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(model.trainable_variables)
    task, strategy = SingleLabel(EUROSAT, ("label",)), tf.distribute.get_strategy()
    step = make_train_steps(strategy, model, optimizer, task, decay=0.1, clip_norm=limit)
    x, target = rng.normal(size=(8, 6)), rng.integers(0, 10, 8)
    batch = {"s1": x.astype(np.float32)}, target, np.ones(8, np.float32)
    rows(strategy, step, tf.data.Dataset.from_tensors(batch))

    logits = x @ kernel + bias
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = (probability - np.eye(10)[target]) / 8
    gradients = [x.T @ error, error.sum(axis=0)]
    norm = math.sqrt(sum((g**2).sum() for g in gradients))
    assert 0.05 < norm < 100
    for found, value, gradient in zip(model.get_weights(), (kernel, bias), gradients, strict=True):
        np.testing.assert_allclose(found, value - 0.5 * (gradient * min(1, limit / norm) + 0.1 * value), atol=1e-6)


REPLICAS = """
import json
import sys
import keras, numpy as np, tensorflow as tf
from small_steps import rows
from tfrs.evaluate import make_measure
from tfrs.labels import EUROSAT, IGBP_SIMPLIFIED
from tfrs.segmentation import Segmentation
from tfrs.steps import make_train_steps
from tfrs.tasks import SingleLabel

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
COUNT, GROUP = 32, 12
images = rng.normal(size=(COUNT, 4, 4, 2)).astype("float32")
weight = rng.uniform(0.2, 2, COUNT).astype("float32")
weight[[1, 6, 20, 21, 22, 23, 30]] = 0  # a batch of four has nothing else
dense = rng.integers(0, 10, (COUNT, 4, 4)).astype("uint8")
dense[2, 1:], dense[25:28] = 255, 255  # shares of valid pixels differ, down to none
single = SingleLabel(EUROSAT, ("label",)), rng.integers(0, 10, COUNT)
pixels = Segmentation(IGBP_SIMPLIFIED, ("lc",), "igbp", (), ((1.0, "cross_entropy"), (0.5, "dice"))), dense


def train(data, devices, size, scaled=False, accumulate=1, per_call=1, **options):
    (task, target), strategy = data, tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])
    with strategy.scope():
        keras.utils.set_random_seed(1)
        image = keras.Input((4, 4, 2), name="s1")
        x = keras.layers.Conv2D(6, 3, padding="same", activation="relu", kernel_regularizer=keras.regularizers.L2(0.01))(image)
        x = x if task.dense else keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model({"s1": image}, keras.layers.Dense(10)(x))
        optimizer = keras.optimizers.Adam(0.01)
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer
        optimizer.build(model.trainable_variables)
    assert strategy.num_replicas_in_sync == devices
    step = make_train_steps(strategy, model, optimizer, task, decay=0.1, accumulate=accumulate, **options)
    full = np.arange(-(-COUNT // size) * size)
    padded = [a[full % COUNT] for a in (images, target, weight)]
    padded[2] = padded[2] * (full < COUNT)
    batches = tf.data.Dataset.from_tensor_slices(({"s1": padded[0]}, *padded[1:])).batch(size, drop_remainder=True)
    found = rows(strategy, step, batches, accumulate, per_call)
    matrix, loss = make_measure(strategy, model, task)(batches)
    scores = {"matrix": matrix.tolist(), "loss": loss}
    return {"rows": found.tolist(), "weights": [value.tolist() for value in model.get_weights()], **scores}


print(json.dumps({name: train(*eval(name)[0], **eval(name)[1]) for name in json.loads(sys.argv[1])}))
"""

# One batch of twelve is the reference; the last one of an epoch is not full.
CASES = {
    "(single, 2, 12), {}": "(single, 1, 12), {}",
    "(single, 1, 4), {'accumulate': 3}": "(single, 1, 12), {}",
    "(pixels, 1, 4), {'accumulate': 3}": "(pixels, 1, 12), {}",
    "(single, 2, 4), {'accumulate': 3, 'per_call': 2}": "(single, 1, 12), {}",
    "(single, 2, 4), {'accumulate': 3, 'scaled': True}": "(single, 1, 12), {}",
    "(single, 1, 12), {'per_call': 2}": "(single, 1, 12), {}",
    "(pixels, 2, 4), {'accumulate': 3, 'scaled': True, 'clip_norm': 0.3}": "(pixels, 1, 12), {'clip_norm': 0.3}",
    "(pixels, 2, 4), {'accumulate': 3, 'jit_compile': True}": "(pixels, 1, 12), {}",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Losses, weights and scores of every case, by its name, from a process that has two devices."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    names = json.dumps(sorted({*CASES, *CASES.values()}))
    command = [sys.executable, "-c", REPLICAS, names]
    folder = tmp_path_factory.mktemp("replicas")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_replicas_accumulation_and_xla_step_as_one_batch_does(trained, case):
    found, expected = trained[case], trained[CASES[case]]
    np.testing.assert_allclose(np.array(found["rows"])[:, :2], np.array(expected["rows"])[:, :2], rtol=3e-6)
    for left, right in zip(expected["weights"], found["weights"], strict=True):
        np.testing.assert_allclose(right, left, atol=1e-6)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["matrix"] == expected["matrix"]


def test_several_steps_per_call_are_the_same_to_the_last_bit(trained):
    assert trained["(single, 1, 12), {'per_call': 2}"]["weights"] == trained["(single, 1, 12), {}"]["weights"]


@pytest.mark.parametrize(("accumulate", "per_call"), [(1, 1), (1, 3), (2, 1)])
def test_seconds_waited_for_slow_data(accumulate, per_call):
    """Each batch but the first takes 0.2 s to come."""
    image = keras.Input((2,), name="s1")
    model = keras.Model({"s1": image}, keras.layers.Dense(10)(image))
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    task, strategy = SingleLabel(EUROSAT, ("label",)), tf.distribute.get_strategy()
    step = make_train_steps(strategy, model, optimizer, task, accumulate=accumulate)
    batch = {"s1": tf.zeros((4, 2))}, tf.zeros(4, tf.int64), tf.ones(4)

    def slow(seconds):
        def wait(number):
            time.sleep(seconds if number else 0)
            return np.int64(number)

        return tf.data.Dataset.range(6).map(lambda number: tf.numpy_function(wait, [number], tf.int64)).map(lambda _: batch)

    rows(strategy, step, slow(0), accumulate, per_call)  # traces
    waited = rows(strategy, step, slow(0.2), accumulate, per_call)[:, 2]
    assert 0.95 < waited.sum() < 1.6 and waited[0] < (0.2 if accumulate == 1 else 0.5)
    assert rows(strategy, step, slow(0), accumulate, per_call)[:, 2].sum() < 0.3


def test_work_of_the_device_is_no_waiting():
    """Data that take as long as the step are prefetched meanwhile."""
    image = keras.Input((2,), name="s1")
    slow = keras.layers.Lambda(lambda x: tf.ensure_shape(tf.numpy_function(_pause, [x], tf.float32), (4, 2)))
    model = keras.Model({"s1": image}, keras.layers.Dense(10)(slow(image)))
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    task, strategy = SingleLabel(EUROSAT, ("label",)), tf.distribute.get_strategy()
    step = make_train_steps(strategy, model, optimizer, task)
    batch = {"s1": tf.zeros((4, 2))}, tf.zeros(4, tf.int64), tf.ones(4)
    data = tf.data.Dataset.range(6).map(lambda n: tf.numpy_function(_pause, [n], tf.int64)).map(lambda _: batch).prefetch(2)
    rows(strategy, step, data, per_call=3)
    waited = rows(strategy, step, data, per_call=3)[:, 2]
    assert waited[0] > 0.1 and waited[1:].sum() < 0.15


def _pause(value):
    time.sleep(0.15)
    return value
