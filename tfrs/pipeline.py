"""Records to batches: record numbers in an order, pixels copied once from the memory map, targets from the index."""

import itertools
import math
import os
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from tfrs import allocation, ops, order, pixels, storage
from tfrs.augment import dates, layers, seeds
from tfrs.batches import Batches
from tfrs.errors import UserError, unknown
from tfrs.python_calls import numpy_function
from tfrs.records import Records
from tfrs.sensors import resolve, select
from tfrs.tasks import Task

# Autotuned pipelines stalled for up to 2 s at the end of an epoch (measured); a fixed number of calls never did.
PARALLEL_CALLS = os.cpu_count() or 1
SHUFFLE_BUFFER, SHUFFLE_BYTES = 1024, 1 << 30  # records, and of their pixels, at most; in sequential reading only


def load(
    records: Records,
    split: str,
    *,
    inputs: str,
    task: Task,
    batch_size: int,
    augment: str | Iterable[str] = (),
    date: str = "",
    sampling: str | order.Weights = "uniform",
    seed: int | None = None,
    epoch: int = 0,
    step: int = 0,
    worker: tuple[int, int] = (0, 1),
    read: str = "auto",
) -> tf.data.Dataset:
    """Batches of a split, of the same size always.

    Each iteration over the dataset is one epoch. With a seed, records come in another order and with other augmentations
    each epoch, the same whenever the call is repeated; without one, in stored order. A last batch that is not full is
    filled with other records of the split, which weigh 0: every record counts once.

    Args:
        inputs: Name of an input or list of bands (`sensors.resolve`).
        batch_size: Global batch size.
        augment: Specs of `ops.parse`; needs a seed. A target that mixup or cutmix has mixed is `Task.soft`.
        date: Which image of a record's series is taken, of all sensors alike: `first` or `random`. That is another one each
            epoch, but without a seed always the same.
        sampling: `uniform` (every record once an epoch), `balanced` (classes equally often), or a function from the record
            index to how often each record comes, in proportion; see `order.weights`. Needs a seed and random reading.
        epoch: Number of the first epoch, to continue a run.
        step: Number of the first batch of that epoch. The first iteration is what is left of it, later ones are whole epochs.
        worker: (index, count): yield this worker's part of every global batch.
        read: `random` maps the shards into memory; `sequential` streams them, for storage without fast random reads
            (with a seed, shuffled over shards and a buffer); `auto` chooses (`storage.reading`).

    Returns:
        Dataset of ({sensor: (B, C, H, W) in the stored dtype}, target, weight (B,) float32), cardinality known unless it
        begins at a step. Maps among the task's columns go through the geometric augmentations with their images.

    Raises:
        UserError: An unknown input, augmentation or split; an empty split; a batch that the workers cannot share.
    """
    sensors = select(records.sensors, resolve(inputs, records.sensors))
    dates.check(records, sensors, date)
    maps = [name for name in task.columns if records.schema.fields[name].kind == "raster"]
    records.schema.check_sizes([*sensors, *maps])
    if not (count := records.count(split)):
        raise UserError(f"{records.directory}: split {split!r} has no record" + " of the selection" * bool(records.selection))
    records.check_files(split)
    if not 0 <= worker[0] < worker[1]:
        raise UserError(f"worker={worker}: workers are numbered from 0 to their number less 1")
    if batch_size < 1 or batch_size % worker[1]:
        raise UserError(f"a batch of {batch_size} cannot be shared by {worker[1]} workers; give a multiple of {worker[1]}")
    if not 0 <= (seed or 0) < 1 << 32 or epoch < 0:
        raise UserError(f"seed={seed}, epoch={epoch}: give whole numbers from 0, of the seed below 2^32")
    if augment and seed is None:
        raise UserError("augmentations are random: give a seed with them")
    drawn = order.weights(records, split, sampling)
    if drawn is not None and seed is None:
        raise UserError("sampling by weights is random: give a seed with it")
    if drawn is not None and read == "sequential":
        raise UserError("sampling by weights draws records by their number, which --read=sequential cannot; leave it out")
    if read == "auto":
        read = "sequential" if drawn is None and storage.is_remote(records.directory) else "random"
    steps = -(-count // batch_size)
    if not 0 <= step < steps:
        raise UserError(f"an epoch of split {split!r} has steps 0 to {steps - 1}, not {step}")
    if read not in (sources := {"random": _random, "sequential": _sequential}):
        raise unknown("way of reading", read, sources)

    chain = ops.parse(augment, layers.of(records, sensors, maps)) if augment else ops.Chain()
    if chain.mixing and batch_size == 1:
        raise UserError("a batch of 1 record has none to mix it with; give a larger batch")
    columns = [name for name in task.columns if name not in maps]
    batches = Batches(records, split, sensors, maps, columns, batch_size, worker, chain, date, seed, drawn)
    dataset = sources[read](batches, itertools.chain([(epoch, step)], ((number, 0) for number in itertools.count(epoch + 1))))
    shapes = batches.shapes()
    dataset = dataset.map(lambda values, weight: batches.element(values, weight, shapes, task), num_parallel_calls=1)
    return finish(dataset, None if step else steps)


def finish(dataset: tf.data.Dataset, steps: int | None) -> tf.data.Dataset:
    """Batches with their number stated, if it is one, prefetched, in an order that does not depend on threads or autotuning."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    if steps is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
    return dataset.prefetch(2).with_options(options)


def _random(batches: Batches, epochs: Iterator[tuple[int, int]]) -> tf.data.Dataset:
    records, split, fields = batches.records, batches.split, batches.records.schema.fields
    table, shards = records.index(split), records.shards(split)

    def ordered():
        allocation.keep_freed()  # each epoch: TensorFlow 2.21 sets it back where it first runs such a generator
        epoch, step = next(epochs)
        numbers, turns, weights = order.order_of(len(table), batches.size, batches.seed, epoch, batches.drawn, step)
        yield numbers[:, batches.rows], turns[:, batches.rows], weights[:, batches.part], np.full(len(numbers), epoch)

    def read(numbers, turns, epoch):
        rows = table[numbers]
        drawn = seeds.again(batches.seeds(rows["key"], int(epoch)), turns)
        mapped = [records.open(shards[shard]) for shard in rows["shard"]]
        turns = batches.chain.symmetries(drawn)
        images = {
            name: pixels.gather(mapped, batches.starts(name, rows, drawn), fields[name], batches.positions(name), turns)
            for name in batches.rasters
        }
        images, share = batches.augment(images, drawn, done=int(batches.chain.turns))
        return [*images.values(), *(np.ascontiguousarray(rows[name]) for name in batches.columns), share]

    def batch(numbers, turns, weight, epoch):
        return tuple(numpy_function(read, [numbers, turns, epoch], types)), weight

    types = batches.types()
    rows = tf.TensorSpec([None, None], tf.int64)
    signature = (rows, rows, tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.int64))
    # A whole epoch at once: a generator that is asked for each batch takes half as long as copying it (measured: EuroSAT).
    epoch = tf.data.Dataset.from_generator(ordered, output_signature=signature)
    return epoch.unbatch().map(batch, num_parallel_calls=PARALLEL_CALLS)


def _sequential(batches: Batches, epochs: Iterator[tuple[int, int]]) -> tf.data.Dataset:
    records, split, schema = batches.records, batches.split, batches.records.schema
    paths, chosen = [str(path) for path in records.shards(split)], records.chosen(split)
    wanted = [*batches.names, "key"]
    size = sum(math.prod(batches.shape(name)) * batches.dtype(name).itemsize for name in batches.rasters)
    buffer = max(batches.size, min(SHUFFLE_BUFFER, SHUFFLE_BYTES // size))
    masks = [np.bincount(numbers).astype(bool) for numbers in chosen or ()]
    shards = (paths, tf.RaggedTensor.from_row_lengths(np.concatenate(masks), list(map(len, masks)))) if chosen else (paths,)

    def shard(path, mask=None):
        found = tf.data.TFRecordDataset(path)
        if mask is None:
            return found
        kept = tf.data.Dataset.zip(found, tf.data.Dataset.from_tensor_slices(mask)).filter(lambda record, kept: kept)
        return kept.map(lambda record, kept: record)

    def stream(epoch, step):
        return ordered(epoch).skip(step * batches.size).map(lambda *values: (*values, epoch))

    def ordered(epoch):
        files = tf.data.Dataset.from_tensor_slices(shards)
        if batches.seed is None:
            return parsed(files.flat_map(shard), epoch)
        # Seed of this function's graph only; with a global seed of 0, shuffle cannot take a tensor as its own.
        tf.random.set_seed(1)
        seed = tf.constant(batches.seed * 1_000_003, tf.int64) + epoch  # no epoch of one seed is that of another
        files = files.shuffle(len(paths), seed, reshuffle_each_iteration=False)
        cycle = min(4, len(paths))
        mixed = files.interleave(shard, cycle_length=cycle, num_parallel_calls=min(cycle, PARALLEL_CALLS))
        # What waits in the buffer is the part that is wanted, not whole records.
        return parsed(mixed, epoch).shuffle(buffer, seed, reshuffle_each_iteration=False)

    def parsed(found, epoch):
        return found.map(lambda record: parse(record, epoch), num_parallel_calls=PARALLEL_CALLS)

    def begin():
        allocation.keep_freed()  # each epoch: see `_random`
        yield next(epochs)

    def image(name, fields, epoch):
        if not schema.fields[name].series:
            return fields[name]

        def number(key, steps, epoch):
            return dates.chosen(batches.date, batches.seeds([key], int(epoch)), steps)[0]

        return fields[name][numpy_function(number, [fields["key"], tf.shape(fields[name])[:1], epoch], tf.int64)]

    def parse(record, epoch):
        fields = schema.decode(record, wanted)
        images = [tf.gather(image(name, fields, epoch), batches.positions(name)) for name in batches.rasters]
        return (*images, *(fields[name] for name in batches.columns), fields["key"])

    def fill(*values):
        *values, keys, epoch = values
        weight = (np.arange(batches.size) < len(keys)).astype(np.float32)
        rows = np.resize(np.arange(len(keys)), batches.size)[batches.rows]
        images = {name: value[rows] for name, value in zip(batches.rasters, values, strict=False)}
        images, share = batches.augment(images, batches.seeds(keys[rows], int(epoch[0])))
        return [*images.values(), *(value[rows] for value in values[len(images) :]), share, weight[batches.part]]

    def filled(*values):
        *values, weight = numpy_function(fill, values, [*batches.types(), tf.float32])
        return tuple(values), weight

    return (
        tf.data.Dataset.from_generator(begin, output_signature=(tf.TensorSpec([], tf.int64),) * 2)
        .flat_map(stream)
        .batch(batches.size)
        .map(filled, num_parallel_calls=PARALLEL_CALLS)
    )
