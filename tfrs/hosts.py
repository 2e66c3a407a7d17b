"""What the processes of a training do together. A process that trains alone does the same, and waits for nobody."""

import contextlib
import os
import textwrap
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from tfrs import cluster
from tfrs.errors import UserError
from tfrs.termination import Terminated

LEAVE = 20  # seconds that a process waits for the others before it ends
# What TensorFlow 2.21 raises where another process has ended or cannot be reached any more.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


def join() -> tf.distribute.Strategy:
    """A strategy over the devices of all processes that TF_CONFIG or SLURM names, once they are there.

    Raises:
        UserError: They are not named, or do not come.
    """
    found = cluster.find(os.environ)
    if found is None:
        raise UserError("--strategy=multi_worker needs TF_CONFIG, or the tasks of SLURM's srun; neither is in the environment")
    gpus = len(tf.config.list_physical_devices("GPU"))
    cluster.meet(found, f"{gpus} GPUs")
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": found.addresses}),
        task_type="worker",
        task_id=found.index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(resolver)


def place(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Number of this process, from 0, and of all."""
    resolver = strategy.cluster_resolver
    return (resolver.task_id, resolver.cluster_spec().num_tasks("worker")) if resolver else (0, 1)


def is_first(strategy: tf.distribute.Strategy) -> bool:
    """Whether this is the process that writes the run and prints."""
    return place(strategy)[0] == 0


def total(strategy: tf.distribute.Strategy, value: np.ndarray) -> np.ndarray:
    """Sum (float64) of an array over the processes, the same on each."""
    if place(strategy)[1] == 1:
        return value
    return _total(strategy, tf.constant(value, tf.float64)).numpy()


@tf.function(reduce_retracing=True)
def _total(strategy, value):
    copies = strategy.run(lambda: value)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, copies, axis=None) / len(strategy.experimental_local_results(copies))


def anywhere(strategy: tf.distribute.Strategy, happened: bool) -> bool:
    """Whether something happened in one of the processes."""
    return bool(total(strategy, np.array(happened)))


def agree(strategy: tf.distribute.Strategy, facts: Mapping[str, str]) -> None:
    """Raise a UserError on all processes where a fact is another on one of them."""
    index, count = place(strategy)
    table = np.zeros((count, len(facts)))
    table[index] = [zlib.crc32(text.encode()) for text in facts.values()]
    for fact, column in zip(facts, total(strategy, table).T, strict=True):
        if other := [str(number + 1) for number in np.flatnonzero(column != column[0])]:
            raise UserError(f"process {', '.join(other)} of {count} has other {fact} than the first one; make them the same")


@contextlib.contextmanager
def together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """All processes leave the block together, and all with an error where the first one, which works in it, has one."""
    failed = True
    try:
        yield
        failed = False
    finally:
        failed_there = anywhere(strategy, failed)
    if failed_there:
        raise UserError("the first process could not go on; its own output says why")


@contextlib.contextmanager
def led_by_first(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """A block in which only the first process prints, and the loss of another one is a UserError."""
    count = place(strategy)[1]
    try:
        with contextlib.nullcontext() if is_first(strategy) else contextlib.redirect_stdout(None):
            yield
    except (UserError, Terminated):
        _leave(strategy)
        raise
    except LOST as error:
        if count == 1:
            raise
        reason = textwrap.shorten(str(error).split("aborted by: ")[-1].splitlines()[0], 150, placeholder="...")
        raise UserError(
            f"another process of the training has ended or cannot be reached; its own output may say why ({reason}). "
            "Run the same command on every host again to continue from the last saved state"
        ) from error
    else:
        _leave(strategy)


def _leave(strategy: tf.distribute.Strategy) -> None:
    """Wait a little until the others are here, too.

    A collective is over for one process while another one still fetches its part from there; whoever ended at once would be
    taken for lost. By TensorFlow's coordination service, which has no public name (2.21).
    """
    index, count = place(strategy)
    if count > 1:
        with contextlib.suppress(tf.errors.OpError):
            context.context().set_config_key_value(f"tfrs/left/{index}", "left")
            for other in range(count):
                context.context().get_config_key_value(f"tfrs/left/{other}", LEAVE * 1000)
