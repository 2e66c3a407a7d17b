"""The training step: gradients over all replicas, several batches per update, several updates per call."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfrs import hosts
from tfrs.tasks import Task


def make_train_steps(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    task: Task,
    *,
    decay: float = 0.0,
    clip_norm: float = 0.0,
    accumulate: int = 1,
    jit_compile: bool = False,
    deterministic: bool = False,
) -> Callable:
    """A function that does several steps, each an update of the weights from one batch or more.

    It takes the distributed iterator over batches (images, target, weight), the number of batches (steps,) int32 that each
    step takes, at most `accumulate`, and what it returned for the steps before. It returns a row (steps, 3) float64 per
    step: the sums of its weighted losses (of this host) and of its weights (of all), and the seconds waited for its batches.

    A sample weighs as much as its `Task.size`, so that the loss of dense labels is the mean over the batch's valid pixels.

    Args:
        decay: L2 decay, added to the gradients of all weights.
        clip_norm: Largest norm of the gradients of all weights together, before the decay; longer ones are shortened to it
            (Pascanu et al. 2013). 0: any.
        accumulate: The most batches per step. The gradients are added up in variables of the replica: by Keras's own
            `gradient_accumulation_steps` (3.15), each batch counts the same however much its samples weigh, the last batches
            of an epoch wait for the next one, and several replicas are not served.
        jit_compile: Compile the gradients of a replica by XLA. The update stays outside: replicas cannot meet within.
        deterministic: Op determinism is enabled, under which TensorFlow's own clock is refused (2.21).
    """
    replicas, several = strategy.num_replicas_in_sync, hosts.place(strategy)[1] > 1
    clock = _clock if deterministic else tf.timestamp
    variables = model.trainable_variables
    # Keras's own `global_clipnorm`, and the judgement whether scaled gradients are finite, look at what a single replica has
    # before they meet (3.15).
    meet = clip_norm > 0 or (replicas > 1 and isinstance(optimizer, keras.optimizers.LossScaleOptimizer))

    def gradients_of(images, target, weight, total):
        """Scaled gradients of a replica's part of a batch, and the sum of its losses."""
        weight = weight * task.size(target)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(task.loss(target, model(images, training=True)) * weight)
            # Summed and divided by the global weight: any number of replicas gives the gradient of the global mean.
            mean = tf.math.divide_no_nan(loss, total) + sum(model.losses) / replicas
            scaled = optimizer.scale_loss(mean)
        return tape.gradient(scaled, variables), loss

    if jit_compile:
        gradients_of = tf.function(gradients_of, jit_compile=True)

    def update(gradients):
        if meet:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            if clip_norm:
                gradients, _ = tf.clip_by_global_norm(gradients, optimizer.scale_loss(clip_norm))
            gradients = [g / replicas for g in gradients]  # the optimizer sums them once more
        gradients = [g + optimizer.scale_loss(decay / replicas * v) for g, v in zip(gradients, variables, strict=True)]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def replica_step(*batch):
        gradients, loss = gradients_of(*batch)
        update(gradients)
        return loss

    with strategy.scope():
        sums_of_gradients = [
            tf.Variable(
                tf.zeros(v.shape),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
            for v in (variables if accumulate > 1 else ())
        ]

    def replica_add(images, target, weight, total):
        gradients, loss = gradients_of(images, target, weight, total)
        for variable, gradient in zip(sums_of_gradients, gradients, strict=True):
            variable.assign_add(gradient * total)
        return loss

    def replica_update(total):
        update([tf.math.divide_no_nan(variable.read_value(), total) for variable in sums_of_gradients])
        for variable in sums_of_gradients:
            variable.assign(tf.zeros_like(variable))

    def weight_of(target, weight):
        return tf.cast(tf.reduce_sum(weight * task.size(target)), tf.float64)

    def local_sum(values):
        # Sums of a few numbers are taken here and not where replicas meet: in a loop, that met the gradients of the step
        # before on two CPU devices of a host ("Shape mismatch in the collective instance", TF 2.21).
        return tf.add_n([tf.cast(value, tf.float64) for value in strategy.experimental_local_results(values)])

    def sums_of(function, iterator, before):
        (images, target, weight), waited = _fetch(iterator, before, clock)
        weights = strategy.run(weight_of, (target, weight))
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, weights, axis=None) if several else local_sum(weights)
        losses = strategy.run(function, (images, target, weight, tf.cast(total, tf.float32)))
        return tf.stack([local_sum(losses), total, waited])

    def step(iterator, batches, before):
        if accumulate == 1:
            return sums_of(replica_step, iterator, before)
        row = tf.zeros(3, tf.float64)
        for _ in tf.range(batches):
            row += sums_of(replica_add, iterator, before)
            before = row
        strategy.run(replica_update, (tf.cast(row[1], tf.float32),))
        return row

    @tf.function
    def train_steps(iterator, batches, before):
        rows, row = tf.TensorArray(tf.float64, tf.size(batches), element_shape=(3,)), before[-1]
        for number in tf.range(tf.size(batches)):
            row = step(iterator, batches[number], row)
            rows = rows.write(number, row)
        return rows.stack()

    return train_steps


def _clock() -> tf.Tensor:
    return tf.ensure_shape(tf.numpy_function(time.time, [], tf.float64), [])


def _fetch(iterator, before: tf.Tensor, clock: Callable[[], tf.Tensor]):
    """The next batch, and for how many seconds it was waited for after `before` was there.

    What counts is that the device has nothing to do. A GPU works on while the host goes ahead and asks for the next batch, so
    the time of that call says little; its work is done when a result of it has come to the host, and only from then on does a
    batch that is not there cost anything. A control dependency would not do, since it does not wait for what a GPU has been
    told to compute; the branch does, since its condition must be known.
    """
    batch = next(iterator)
    with tf.device("CPU:0"):
        free = tf.cond(tf.math.is_nan(before[0]), clock, clock)
        with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            waited = tf.maximum(clock() - free, 0)
    return batch, waited


@contextlib.contextmanager
def averaged(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Within the block all trainable variables are the moving averages that the optimizer keeps, if it does.

    The moving averages of batch normalisation stay as they are: those of the weights as trained.
    """
    if not getattr(optimizer, "inner_optimizer", optimizer).use_ema:
        yield
        return
    trained = [variable.numpy() for variable in variables]
    optimizer.finalize_variable_values(variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)


def share_batch_statistics(strategy: tf.distribute.Strategy, model: keras.Model) -> None:
    """Give every replica the mean of the replicas' moving averages.

    In Keras 3.15 each replica updates a copy of its own, and a checkpoint or export would hold only the first one's.
    """
    variables = model.non_trainable_variables
    if strategy.num_replicas_in_sync == 1 or not variables:
        return
    copies = [strategy.experimental_local_results(variable.value) for variable in variables]
    means = [np.mean([copy.numpy() for copy in of], axis=0) for of in copies]
    ends = np.cumsum([mean.size for mean in means])
    flat = hosts.total(strategy, np.concatenate([mean.ravel() for mean in means])) / hosts.place(strategy)[1]
    for variable, mean, part in zip(variables, means, np.split(flat, ends[:-1]), strict=True):
        variable.value.assign(part.reshape(mean.shape).astype(mean.dtype))


def distribute(strategy: tf.distribute.Strategy, dataset: tf.data.Dataset) -> Iterator:
    """Batches without end, each of this host's dataset cut into equal parts for its replicas."""
    parts = strategy.num_replicas_in_sync // hosts.place(strategy)[1]
    endless = dataset.repeat()  # of one with an end, several hosts would tell each other at every batch whether it is there
    if parts > 1:
        endless = endless.rebatch(dataset.element_spec[-1].shape[0] // parts, drop_remainder=True)
    return iter(strategy.distribute_datasets_from_function(lambda _: endless))
