"""Augmentations that change the values of sensors; pixels without data stay without, and maps of classes stay as they are."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from tfrs.augment.layers import Images, Layer, Op, imagery
from tfrs.errors import UserError

# From the values of a band's pixels that have data, float32, and the number of the band to other values.
Change = Callable[[np.ndarray, int], np.ndarray]


def noise(layers: Mapping[str, Layer], amount: float) -> Op:
    """Gaussian noise with a standard deviation of `amount` times that of the band over the training split."""

    def draw(layer: Layer, rng: np.random.Generator) -> Change:
        spread = (amount * layer.std).astype(np.float32)
        return lambda values, band: values + spread[band] * rng.standard_normal(values.shape, np.float32)

    return _drawn(imagery(layers), draw)


def brightness(layers: Mapping[str, Layer], amount: float) -> Op:
    """Each sensor's reflectances, or backscattered powers, times a number between 1 - `amount` and 1 + `amount`.

    In decibels that is an offset.
    """

    def draw(layer: Layer, rng: np.random.Generator) -> Change:
        factor = rng.uniform(1 - amount, 1 + amount)
        if layer.decibels:
            return lambda values, band: values + np.float32(10 * math.log10(factor))
        return lambda values, band: values * np.float32(factor)

    return _drawn(imagery(layers), draw)


def contrast(layers: Mapping[str, Layer], amount: float) -> Op:
    """Differences from the band's mean over the patch times a number of 1 - `amount` to 1 + `amount`, one for each sensor."""

    def draw(layer: Layer, rng: np.random.Generator) -> Change:
        factor = np.float32(rng.uniform(1 - amount, 1 + amount))
        return lambda values, band: (mean := values.mean()) + factor * (values - mean)

    return _drawn(imagery(layers), draw)


def speckle(layers: Mapping[str, Layer], looks: float) -> Op:
    """Speckle of `looks` looks: backscattered power times a gamma-distributed number of mean 1 and variance 1 / `looks`.

    Independent for each pixel and polarisation (Ulaby, Kouyate, Brisco & Williams 1986).
    """
    backscatter = {name: layer for name, layer in layers.items() if layer.decibels}
    if not backscatter:
        raise UserError(f"speckle is for Sentinel-1 in decibels; this input has {', '.join(imagery(layers))}")

    def draw(layer: Layer, rng: np.random.Generator) -> Change:
        def change(values: np.ndarray, band: int) -> np.ndarray:
            power = rng.standard_gamma(looks, values.shape, np.float32) / np.float32(looks)
            # With a single look one of 2^24 draws is exactly 0, which has no logarithm.
            return values + 10 * np.log10(np.maximum(power, np.finfo(np.float32).eps))

        return change

    return _drawn(backscatter, draw)


def _drawn(layers: Mapping[str, Layer], draw: Callable[[Layer, np.random.Generator], Change]) -> Op:
    """The op that changes each sensor of each sample by a function of its own draw."""

    def apply(images: Images, seeds: np.ndarray) -> Images:
        for number, seed in enumerate(seeds):
            rng = np.random.default_rng(seed)
            for name, layer in layers.items():
                layer.change(images[name][number], draw(layer, rng))
        return images

    return apply
