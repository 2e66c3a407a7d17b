"""Batches of series of images: padded to the longest of the batch, with a mask of the images that are there."""

import itertools

import numpy as np
import tensorflow as tf

from tfrs.errors import UserError
from tfrs.order import order_of
from tfrs.pipeline import PARALLEL_CALLS, finish
from tfrs.python_calls import numpy_function
from tfrs.records import Records
from tfrs.schema import Field
from tfrs.sensors import resolve, select
from tfrs.tasks import Task

MASK = "mask"


def load(
    records: Records, split: str, *, inputs: str, task: Task, batch_size: int, seed: int | None = None, epoch: int = 0
) -> tf.data.Dataset:
    """Batches of the series of a split, in the order of `pipeline.load`; without augmentation.

    Args:
        inputs: Name of an input or list of bands (`sensors.resolve`).
        seed: Records come in another order each epoch; in stored order where None.
        epoch: Number of the first epoch, to continue a run.

    Returns:
        Dataset of ({sensor: (B, T, C, H, W) in the stored dtype, "mask": (B, T) bool}, target, weight (B,) float32).
        T is the longest series of the batch; the mask is false, and images are 0, beyond the end of a shorter one.

    Raises:
        UserError: The records hold single images, the input or split is unknown, or the split is empty.
    """
    sensors = select(records.sensors, resolve(inputs, records.sensors))
    fields = {name: records.schema.fields[name] for name in sensors}
    if not all(field.series for field in fields.values()):
        raise UserError(f"{records.directory}: the records hold single images; build records with --form=series")
    table, shards, epochs = records.index(split), records.shards(split), itertools.count(epoch)
    if not len(table):
        raise UserError(f"{records.directory}: split {split!r} has no record")
    positions = {name: records.sensors[name].index(sensor.bands) for name, sensor in sensors.items()}

    def read(numbers):
        rows = table[numbers]
        mapped = [records.open(shards[shard]) for shard in rows["shard"]]
        steps = {name: rows[f"steps_{name}"].astype(int) for name in fields}
        images = [pad(mapped, rows[f"at_{name}"], steps[name], field, positions[name]) for name, field in fields.items()]
        mask = np.arange(images[0].shape[1]) < next(iter(steps.values()))[:, None]
        return [*images, mask, *(np.ascontiguousarray(rows[name]) for name in task.columns)]

    types = [np.dtype(field.dtype) for field in fields.values()] + [np.dtype(bool)]
    types += [table.dtype[name].base for name in task.columns]
    shapes = [(batch_size, None, len(positions[name]), *field.shape[2:]) for name, field in fields.items()]
    shapes += [(batch_size, None)] + [(batch_size, *table.dtype[name].shape) for name in task.columns]
    names = [*fields, MASK, *task.columns]

    def element(numbers, _, weight):
        values = numpy_function(read, [numbers], types)
        tensors = {n: tf.ensure_shape(v, shape) for n, v, shape in zip(names, values, shapes, strict=True)}
        target = task.target({name: tensors[name] for name in task.columns})
        return {name: tensors[name] for name in [*fields, MASK]}, target, weight

    order = tf.data.Dataset.from_generator(
        lambda: [order_of(len(table), batch_size, seed, next(epochs))],
        output_signature=(*[tf.TensorSpec([None, batch_size], tf.int64)] * 2, tf.TensorSpec([None, batch_size], tf.float32)),
    )
    return finish(order.unbatch().map(element, num_parallel_calls=PARALLEL_CALLS), -(-len(table) // batch_size))


def pad(
    shards: list[np.ndarray], starts: np.ndarray, steps: np.ndarray, field: Field, positions: tuple[int, ...]
) -> np.ndarray:
    """Series of several records as one array (B, T, C, H, W), zero beyond the end of each.

    Args:
        shards: The shard of each record, as bytes.
        starts: Offset of the series in it.
        steps: Number of images of the series.
        positions: The bands wanted.
    """
    _, bands, height, width = field.shape
    batch = np.zeros((len(shards), steps.max(), len(positions), height, width), field.dtype)
    for padded, shard, start, count in zip(batch, shards, starts.tolist(), steps.tolist(), strict=True):
        series = shard[start : start + count * field.nbytes].view(field.stored).reshape(count, bands, height, width)
        np.take(series, positions, axis=1, out=padded[:count], mode="clip")  # "raise" would copy twice
    return batch
