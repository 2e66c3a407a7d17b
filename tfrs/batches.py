"""What is in a batch: the pixels and columns of its records that are wanted, and what is done with them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfrs import ops
from tfrs.augment import dates, layers, seeds
from tfrs.labels import IGNORE
from tfrs.records import Records
from tfrs.sensors import Sensor
from tfrs.tasks import Task


@dataclass(frozen=True)
class Batches:
    """What both ways of reading share (see `pipeline.load`)."""

    records: Records
    split: str
    sensors: dict[str, Sensor]
    maps: list[str]
    columns: list[str]
    size: int
    worker: tuple[int, int]
    chain: ops.Chain
    date: str
    seed: int | None
    drawn: np.ndarray | None

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

    @property
    def rows(self) -> np.ndarray:
        """Places of these samples in the global batch, and of the one that the last of them is mixed with."""
        return np.arange(self.part.start, self.part.stop + (self.chain.mixing is not None)) % self.size

    def positions(self, name: str) -> tuple[int, ...]:
        """Bands of a raster that are wanted; a map of classes is its first band."""
        if name in self.maps:
            return (0,)
        return self.records.sensors[name].index(self.sensors[name].bands)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape (C, H, W) of a raster before augmentation."""
        return (len(self.positions(name)), *self.records.schema.fields[name].shape[-2:])

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(self.records.schema.fields[name].dtype)

    def seeds(self, keys: Iterable[bytes], epoch: int) -> np.ndarray:
        return seeds.of(keys, 0, 0) if self.seed is None else seeds.of(keys, self.seed, epoch)

    def starts(self, name: str, rows: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Offset in its shard of a raster, or of the image taken from a series by its seed, for rows of the index."""
        field = self.records.schema.fields[name]
        if not field.series:
            return rows[f"at_{name}"]
        number = dates.chosen(self.date, drawn, rows[f"steps_{name}"])
        return rows[f"at_{name}"].astype(np.int64) + number * field.nbytes

    def missing(self, tensors: dict[str, tf.Tensor]) -> tf.Tensor:
        """Pixels (B, H, W) where a sensor has no data: nodata in all bands, or NaN in one."""
        found = [tf.zeros_like(tensors[next(iter(self.sensors))][:, 0], tf.bool)]
        for name, sensor in self.sensors.items():
            if sensor.nodata is not None:
                found.append(tf.reduce_all(tensors[name] == sensor.nodata, axis=1))
            elif tensors[name].dtype.is_floating:
                found.append(tf.reduce_any(tf.math.is_nan(tensors[name]), axis=1))
        return tf.reduce_any(found, axis=0)

    def augment(self, images: layers.Images, drawn: np.ndarray, done: int = 0) -> tuple[layers.Images, np.ndarray]:
        """Rasters of `part` from those of `rows` with their seeds, and how much of each record of `rows` is its own."""
        images, share = ops.apply(self.chain, images, drawn, done)
        return {name: image[: self.part.stop - self.part.start] for name, image in images.items()}, share

    def types(self) -> list[np.dtype]:
        table = self.records.index(self.split)
        return [*map(self.dtype, self.rasters), *(table.dtype[name].base for name in self.columns), np.dtype(np.float32)]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one sample of every raster, after augmentation, and column."""
        images = {name: np.zeros((1, *self.shape(name)), self.dtype(name)) for name in self.rasters}
        shapes = {name: image.shape[1:] for name, image in self.augment(images, self.seeds([b""], 0))[0].items()}
        return shapes | {name: self.records.index(self.split).dtype[name].shape for name in self.columns}

    def element(self, values, weight, shapes: dict[str, tuple[int, ...]], task: Task):
        """Tensors in the order of `names`, and the shares, as (images, target, weight), with static shapes."""
        *values, share = values
        count, rows = self.part.stop - self.part.start, len(self.rows)
        known = {name: (count if name in self.rasters else rows, *shapes[name]) for name in self.names}
        tensors = {name: tf.ensure_shape(t, known[name]) for name, t in zip(self.names, values, strict=True)}
        target = task.target({name: tensors[name] for name in task.columns})
        if task.dense:  # where there is nothing to see, there is nothing to learn
            target = tf.where(self.missing(tensors), tf.cast(IGNORE, target.dtype), target)
        if self.chain.mixing and not task.dense:  # maps are mixed with their images
            target, share = task.soft(target), tf.ensure_shape(share, (rows,))[:-1, None]
            target = share * target[:-1] + (1 - share) * target[1:]
        return {name: tensors[name] for name in self.sensors}, target, tf.ensure_shape(weight, (count,))
