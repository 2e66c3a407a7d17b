"""Records to batches: record numbers in an order, pixels copied once from the memory map, targets from the index."""

import itertools
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfrs import ops
from tfrs.errors import UserError, unknown
from tfrs.records import Records
from tfrs.sensors import Sensor, resolve, select
from tfrs.tasks import Task

# Autotuned pipelines stalled for up to 2 s at the end of an epoch (measured); a fixed number of calls never did.
PARALLEL_CALLS = os.cpu_count() or 1
SHUFFLE_BUFFER = 1024  # records, in sequential reading only
ALIGNMENT = 64  # bytes; TensorFlow takes over a NumPy array without a copy when it starts at such an address


def load(
    records: Records,
    split: str,
    *,
    inputs: str,
    task: Task,
    batch_size: int,
    augment: Iterable[str] = (),
    seed: int | None = None,
    epoch: int = 0,
    worker: tuple[int, int] = (0, 1),
    read: str = "random",
) -> tf.data.Dataset:
    """Batches of a split, of the same size always.

    Each iteration over the dataset is one epoch. With a seed, records come in another order and with other augmentations
    each epoch, the same whenever the call is repeated; without one, in stored order. A last batch that is not full is
    filled with other records of the split, which weigh 0: every record counts once.

    Args:
        inputs: Name of an input or list of bands (`sensors.resolve`).
        batch_size: Global batch size.
        augment: Specs of `ops.parse`; needs a seed.
        epoch: Number of the first epoch, to continue a run.
        worker: (index, count): yield this worker's part of every global batch.
        read: `random` maps the shards into memory; `sequential` streams them, for storage without fast random reads
            (with a seed, shuffled over shards and a buffer).

    Returns:
        Dataset of ({sensor: (B, C, H, W) in the stored dtype}, target, weight (B,) float32), cardinality known. Maps among
        the task's columns go through the geometric augmentations with their images.

    Raises:
        UserError: An unknown input, augmentation or split; an empty split; a batch that the workers cannot share.
    """
    sensors = select(records.sensors, resolve(inputs, records.sensors))
    if any(records.schema.fields[name].series for name in sensors):
        raise UserError(f"{records.directory}: the records hold series of images; a model of single images needs --form=single")
    maps = [name for name in task.columns if records.schema.fields[name].kind == "raster"]
    sizes = {name: records.schema.fields[name].shape[-2:] for name in [*sensors, *maps]}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
        raise UserError(f"input {inputs!r} takes rasters of different sizes ({listed}); build without --native_resolution")
    count = records.count(split)
    if not count:
        raise UserError(f"{records.directory}: split {split!r} has no record")
    if batch_size < 1 or batch_size % worker[1]:
        raise UserError(f"a batch of {batch_size} cannot be shared by {worker[1]} workers; give a multiple of {worker[1]}")
    if augment and seed is None:
        raise UserError("augmentations are random: give a seed with them")
    if read not in (sources := {"random": _random, "sequential": _sequential}):
        raise unknown("way of reading", read, sources)

    scales = {name: _scale(records, sensor) for name, sensor in sensors.items()} if augment else {}
    augmentations = ops.parse(augment, scales)
    columns = [name for name in task.columns if name not in maps]
    batches = _Batches(records, split, sensors, maps, columns, batch_size, worker, augmentations, seed)
    dataset = sources[read](batches, itertools.count(epoch))
    shapes = batches.shapes()
    dataset = dataset.map(lambda values, weight: batches.element(values, weight, shapes, task), num_parallel_calls=1)
    steps = -(-count // batch_size)
    return finish(dataset, steps)


def finish(dataset: tf.data.Dataset, steps: int) -> tf.data.Dataset:
    """Batches with their number known, prefetched, in an order that does not depend on threads or autotuning."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2).with_options(options)


@dataclass(frozen=True)
class _Batches:
    """What both ways of reading share: which pixels and columns are wanted, and what is done with them."""

    records: Records
    split: str
    sensors: dict[str, Sensor]
    maps: list[str]
    columns: list[str]
    size: int
    worker: tuple[int, int]
    augmentations: list[ops.Op]
    seed: int | None

    @property
    def names(self) -> list[str]:
        return [*self.rasters, *self.columns]

    @property
    def rasters(self) -> list[str]:
        return [*self.sensors, *self.maps]

    @property
    def part(self) -> slice:
        """This worker's samples of a global batch."""
        index, count = self.worker
        return slice(index * self.size // count, (index + 1) * self.size // count)

    def positions(self, name: str) -> tuple[int, ...]:
        """Bands of a raster that are wanted; a map of classes is its first band."""
        if name in self.maps:
            return (0,)
        return self.records.sensors[name].index(self.sensors[name].bands)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape (C, H, W) of a raster before augmentation."""
        return (len(self.positions(name)), *self.records.schema.fields[name].shape[1:])

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(self.records.schema.fields[name].dtype)

    def augment(self, images: ops.Images, keys: Iterable[bytes], epoch: int) -> ops.Images:
        if not self.augmentations:
            return images
        seeds = np.array([zlib.crc32(key) for key in keys], np.uint64) << np.uint64(32)
        return ops.apply(self.augmentations, images, ops.mix(seeds | np.uint64(epoch)) ^ np.uint64(self.seed))

    def types(self) -> list[np.dtype]:
        table = self.records.index(self.split)
        return [*map(self.dtype, self.rasters), *(table.dtype[name].base for name in self.columns)]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one sample of every raster, after augmentation, and column."""
        images = {name: np.zeros((1, *self.shape(name)), self.dtype(name)) for name in self.rasters}
        shapes = {name: image.shape[1:] for name, image in self.augment(images, [b""], 0).items()}
        return shapes | {name: self.records.index(self.split).dtype[name].shape for name in self.columns}

    def element(self, values, weight, shapes: dict[str, tuple[int, ...]], task: Task):
        """Tensors in the order of `names` as (images, target, weight), with static shapes."""
        rows = self.part.stop - self.part.start
        tensors = {name: tf.ensure_shape(t, (rows, *shapes[name])) for name, t in zip(self.names, values, strict=True)}
        target = task.target({name: tensors[name] for name in task.columns})
        return {name: tensors[name] for name in self.sensors}, target, tf.ensure_shape(weight, (rows,))


def _random(batches: _Batches, epochs: Iterator[int]) -> tf.data.Dataset:
    records, split = batches.records, batches.split
    table, shards = records.index(split), records.shards(split)

    def order():
        epoch = next(epochs)
        for numbers, weight in order_of(len(table), batches.size, batches.seed, epoch):
            yield numbers[batches.part], weight[batches.part], epoch

    def read(numbers, epoch):
        rows = table[numbers]
        mapped = [records.open(shards[shard]) for shard in rows["shard"]]
        images = {name: _copy(batches, name, mapped, rows[f"at_{name}"]) for name in batches.rasters}
        images = batches.augment(images, rows["key"], int(epoch))
        return [*images.values(), *(np.ascontiguousarray(rows[name]) for name in batches.columns)]

    types = batches.types()
    return tf.data.Dataset.from_generator(
        order,
        output_signature=(tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int64)),
    ).map(
        lambda numbers, weight, epoch: (tuple(tf.numpy_function(read, [numbers, epoch], types)), weight),
        num_parallel_calls=PARALLEL_CALLS,
    )


def order_of(count: int, size: int, seed: int | None, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Record numbers and weights (size,) of each batch of an epoch; the last is filled with records that weigh 0."""
    numbers = np.arange(count) if seed is None else np.random.default_rng([seed, epoch]).permutation(count)
    for start in range(0, count, size):
        chosen = numbers[start : start + size]
        yield np.concatenate([chosen, np.resize(numbers, size - len(chosen))]), np.arange(size) < len(chosen)


def _copy(batches: _Batches, name: str, mapped: list[np.ndarray], starts: np.ndarray) -> np.ndarray:
    """Wanted bands of one raster of several records, each run of neighbouring bands in one copy."""
    bands, height, width = batches.shape(name)
    image = _aligned((len(mapped), bands, height, width), batches.dtype(name))
    pixels = image.view(np.uint8).reshape(len(mapped), -1)
    size = pixels.shape[1] // bands
    runs = list(_runs(batches.positions(name)))
    for row, shard, start in zip(pixels, mapped, starts.tolist(), strict=True):
        for to, at, count in runs:
            row[to * size : (to + count) * size] = shard[start + at * size : start + (at + count) * size]
    return image


def _runs(positions: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """(first place in the batch, first place in the file, number) of each run of neighbouring bands."""
    starts = [i for i, at in enumerate(positions) if i == 0 or at != positions[i - 1] + 1]
    for start, stop in itertools.pairwise([*starts, len(positions)]):
        yield start, positions[start], stop - start


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    block = np.empty(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size].view(dtype).reshape(shape)


def _sequential(batches: _Batches, epochs: Iterator[int]) -> tf.data.Dataset:
    records, split, schema = batches.records, batches.split, batches.records.schema
    paths = [str(path) for path in records.shards(split)]
    wanted = [*batches.names, "key"]

    def stream(epoch):
        if batches.seed is None:
            return tf.data.TFRecordDataset(paths).map(lambda record: (record, epoch))
        # Seed of this function's graph only; with a global seed of 0, shuffle cannot take a tensor as its own.
        tf.random.set_seed(1)
        seed = tf.constant(batches.seed * 1_000_003, tf.int64) + epoch  # no epoch of one seed is that of another
        shards = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed, reshuffle_each_iteration=False)
        mixed = shards.interleave(tf.data.TFRecordDataset, cycle_length=min(4, len(paths)))
        return mixed.shuffle(SHUFFLE_BUFFER, seed, reshuffle_each_iteration=False).map(lambda record: (record, epoch))

    def parse(record, epoch):
        fields = schema.decode(record, wanted)
        images = [tf.gather(fields[name], batches.positions(name)) for name in batches.rasters]
        return (*images, *(fields[name] for name in batches.columns), fields["key"], epoch)

    def fill(*values):
        *values, keys, epoch = values
        weight = (np.arange(batches.size) < len(keys)).astype(np.float32)
        rows = np.resize(np.arange(len(keys)), batches.size)[batches.part]
        images = {name: value[rows] for name, value in zip(batches.rasters, values, strict=False)}
        images = batches.augment(images, keys[rows], int(epoch[0]))
        return [*images.values(), *(value[rows] for value in values[len(images) :]), weight[batches.part]]

    def filled(*values):
        *values, weight = tf.numpy_function(fill, values, [*batches.types(), tf.float32])
        return tuple(values), weight

    return (
        tf.data.Dataset.from_generator(lambda: [next(epochs)], output_signature=tf.TensorSpec([], tf.int64))
        .flat_map(stream)
        .map(parse, num_parallel_calls=PARALLEL_CALLS)
        .batch(batches.size)
        .map(filled, num_parallel_calls=PARALLEL_CALLS)
    )


def _scale(records: Records, sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a sensor's bands over the training split."""
    rows = [records.statistics[sensor.name][band] for band in sensor.bands]
    if any(row["mean"] is None for row in rows):
        raise UserError(f"{records.directory}: no statistics of {sensor.name} (the records have no training split)")
    return np.array([row["mean"] for row in rows]), np.array([row["std"] for row in rows])
