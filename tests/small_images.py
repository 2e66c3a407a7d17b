"""Small rasters of two sensors and a map, and what augmentations know of them."""

import numpy as np

from tfrs import ops
from tfrs.augment.layers import Layer

LAYERS = {
    "s2": Layer(0, np.array([1000.0, 2000.0, 3000.0]), np.array([100.0, 200.0, 300.0])),
    "s1": Layer(np.nan, np.array([-11.5, -18.25]), np.array([4.0, 5.0]), decibels=True),
}
WITH_MAP = LAYERS | {"lc": Layer(0)}
SEEDS = np.random.default_rng(0).integers(0, 2**63, 4000).astype(np.uint64)


def images(count, size=5):
    """s2 and s1 whose every pixel holds a value of its own within the sample, the same numbering in both."""
    numbers = np.broadcast_to(np.arange(size * size).reshape(size, size), (count, 1, size, size))
    return {
        "s2": np.concatenate([numbers + 1000 * band + 1 for band in range(3)], axis=1).astype(np.uint16),
        "s1": np.concatenate([numbers, numbers], axis=1).astype(np.float32),
    }


def landscape(count, height=24, width=20, seed=0):
    """Random s2, s1 and lc, a part of each without data."""
    rng = np.random.default_rng(seed)
    s2 = rng.integers(1, 10_000, (count, 3, height, width)).astype(np.uint16)
    s1 = rng.normal(-12, 4, (count, 2, height, width)).astype(np.float32)
    s2[:, 1, 5:9, 3:12], s2[:, :, 15, 15], s1[:, :, 2:4, 10:], s1[:, 0, 20, 7] = 0, 0, np.nan, np.nan
    return {"s2": s2, "s1": s1, "lc": rng.integers(1, 18, (count, 1, height, width)).astype(np.uint8)}


def missing(name, batch):
    return np.isnan(batch) if name == "s1" else batch == 0


def augmented(specs, batch, seeds, layers=LAYERS):
    """The batch after augmentation, which does not touch the one given."""
    specs = [specs] if isinstance(specs, str) else specs
    used = {name: image.copy() for name, image in batch.items()}
    return ops.apply(ops.parse(specs, {name: layers[name] for name in batch}), used, seeds)[0]
