"""Augmentations that mix a record with the next one of the batch; the batch is shuffled, so that may be any of the split.

A mixing writes into the rasters (B, C, H, W) of a batch and returns how much (B,) of each sample is still its own. The last
sample has nothing after it and stays.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from tfrs.augment.layers import Images, Layer
from tfrs.errors import UserError

Mixing = Callable[[Images, np.ndarray], np.ndarray]


def mixup(layers: Mapping[str, Layer], alpha: float) -> Mixing:
    """Weighted mean of both, the share drawn from Beta(`alpha`, `alpha`) (Zhang et al. 2018); decibels are mixed as such.

    Where one of them has no data, the other stands alone.
    """
    if any(layer.is_map for layer in layers.values()):
        raise UserError("mixup would mix maps of classes, which have nothing in between; cutmix pastes them with the image")

    def apply(images: Images, seeds: np.ndarray) -> np.ndarray:
        shares = np.ones(len(seeds), np.float32)
        for number, seed in enumerate(seeds[:-1]):
            share = shares[number] = np.random.default_rng(seed).beta(alpha, alpha)
            for name, layer in layers.items():
                for band, other in zip(images[name][number], images[name][number + 1], strict=True):
                    mixed = np.float32(share) * band + np.float32(1 - share) * other
                    band[...] = _alone(layer, band, other, layer.rounded(mixed, band.dtype))
        return shares

    return apply


def _alone(layer: Layer, band: np.ndarray, other: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """`mixed`, but the pixels of one image where those of the other have no data."""
    for absent, present in ((layer.missing(other), band), (layer.missing(band), other)):
        mixed[absent] = present[absent]
    return mixed


def cutmix(layers: Mapping[str, Layer], alpha: float) -> Mixing:
    """A window of the other in place of its own pixels, maps included (Yun et al. 2019, algorithm 1).

    Its share of the area is drawn from Beta(`alpha`, `alpha`), its centre is anywhere; what is outside the patch is cut off.
    """

    def apply(images: Images, seeds: np.ndarray) -> np.ndarray:
        height, width = next(iter(images.values())).shape[2:]
        shares = np.ones(len(seeds), np.float32)
        for number, seed in enumerate(seeds[:-1]):
            rng = np.random.default_rng(seed)
            side = math.sqrt(rng.beta(alpha, alpha))
            rows, columns = (_span(rng, length, side) for length in (height, width))
            for batch in images.values():
                batch[number, :, rows, columns] = batch[number + 1, :, rows, columns]
            shares[number] = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return shares

    return apply


def _span(rng: np.random.Generator, length: int, share: float) -> slice:
    """A part of `length` pixels around any of them."""
    centre, size = rng.integers(length), round(share * length)
    return slice(max(0, centre - size // 2), min(length, centre - size // 2 + size))
