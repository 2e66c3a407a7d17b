"""Augmentations that take bands, sensors or a part of the patch away: the values become the band's mean; maps stay."""

from collections.abc import Mapping

import numpy as np

from tfrs.augment.layers import Images, Layer, Op, imagery
from tfrs.errors import UserError


def band_dropout(layers: Mapping[str, Layer], probability: float) -> Op:
    """Set each band to its mean with this probability; one band of the sample, drawn at random, always stays."""
    sensors = imagery(layers)
    bands = [(name, band) for name, layer in sensors.items() for band in range(len(layer.mean))]

    def apply(images: Images, seeds: np.ndarray) -> Images:
        for sample, seed in enumerate(seeds):
            rng = np.random.default_rng(seed)
            dropped = rng.random(len(bands)) < probability
            dropped[rng.integers(len(bands))] = False
            for name, band in (bands[i] for i in np.flatnonzero(dropped)):
                images[name][sample, band] = _mean(images, name, sensors)[band]
        return images

    return apply


def modality_dropout(layers: Mapping[str, Layer], probability: float) -> Op:
    """Set all bands of one sensor, drawn at random, to their means with this probability."""
    sensors = imagery(layers)
    if len(sensors) < 2:
        raise UserError(f"modality_dropout needs an input of several sensors; this one has {', '.join(sensors)}")

    def apply(images: Images, seeds: np.ndarray) -> Images:
        for sample, seed in enumerate(seeds):
            rng = np.random.default_rng(seed)
            if rng.random() < probability:
                name = list(sensors)[rng.integers(len(sensors))]
                images[name][sample] = _mean(images, name, sensors)
        return images

    return apply


def cutout(layers: Mapping[str, Layer], size: int) -> Op:
    """Set a square of `size` pixels, less where it reaches over the border, to the bands' means (DeVries & Taylor 2017)."""
    sensors = imagery(layers)

    def apply(images: Images, seeds: np.ndarray) -> Images:
        height, width = next(iter(images.values())).shape[2:]
        for sample, seed in enumerate(seeds):
            rows, columns = square(seed, height, width, size)
            for name in sensors:
                images[name][sample, :, rows, columns] = _mean(images, name, sensors)
        return images

    return apply


def square(seed: int, height: int, width: int, size: int) -> tuple[slice, slice]:
    """Rows and columns of a square around any pixel of the patch."""
    return tuple(
        slice(max(0, start), start + size) for start in np.random.default_rng(seed).integers((height, width)) - size // 2
    )


def _mean(images: Images, name: str, sensors: Mapping[str, Layer]) -> np.ndarray:
    """Means (C, 1, 1) of a sensor's bands in the type of its images."""
    return sensors[name].rounded(sensors[name].mean, images[name].dtype)[:, None, None]
