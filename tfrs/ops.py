"""Augmentations of a batch: plain NumPy functions, the same draw for every sensor of a sample.

An op takes images {name: (B, C, H, W)} and one 64-bit seed per sample, and returns images. Seeds come from the sample's key
and the epoch, so a sample is augmented alike whatever batch, worker or reading mode it arrives in.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tfrs.errors import UserError, unknown

Images = dict[str, np.ndarray]
Op = Callable[[Images, np.ndarray], Images]
# Per sensor the mean and standard deviation of each band, in digital numbers or dB.
Scales = Mapping[str, tuple[np.ndarray, np.ndarray]]


def mix(seeds: np.ndarray) -> np.ndarray:
    """Well-mixed 64 bits per seed (SplitMix64, Steele et al. 2014)."""
    z = seeds.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seeds: np.ndarray) -> np.ndarray:
    """One number in [0, 1) per seed."""
    return (mix(seeds) >> np.uint64(11)) * 2.0**-53


def dihedral(images: Images, seeds: np.ndarray) -> Images:
    """One of the 8 flips and quarter turns of the square, each with the same probability.

    Raises:
        UserError: The images are not square.
    """
    codes = mix(seeds) % np.uint64(8)
    for name, batch in images.items():
        if batch.shape[2] != batch.shape[3]:
            raise UserError(f"dihedral needs square images, {name} is {batch.shape[2]}x{batch.shape[3]}; crop first")
        for image, code in zip(batch, codes.tolist(), strict=True):
            if code:
                image[...] = symmetry(image, code).copy()
    return images


def symmetry(image: np.ndarray, code: int) -> np.ndarray:
    """View of an image (C, H, W) under symmetry 0..7: bit 0 flips left-right, bit 1 up-down, bit 2 transposes."""
    image = image[:, :, ::-1] if code & 1 else image
    image = image[:, ::-1] if code & 2 else image
    return image.transpose(0, 2, 1) if code & 4 else image


def crop(size: int) -> Op:
    """A square window of `size` pixels at a random place."""

    def apply(images: Images, seeds: np.ndarray) -> Images:
        height, width = min(batch.shape[2:] for batch in images.values())
        if min(height, width) < size:
            raise UserError(f"crop:{size} is larger than the images ({height}x{width})")
        top = (uniform(seeds) * (height - size + 1)).astype(int)
        left = (uniform(mix(seeds)) * (width - size + 1)).astype(int)
        windows = [(slice(None), slice(t, t + size), slice(x, x + size)) for t, x in zip(top, left, strict=True)]
        return {
            name: np.stack([image[window] for image, window in zip(batch, windows, strict=True)])
            for name, batch in images.items()
        }

    return apply


def noise(amount: float, scales: Scales) -> Op:
    """Gaussian noise with a standard deviation of `amount` times that of the band over the training split."""

    def apply(images: Images, seeds: np.ndarray) -> Images:
        for name in scales:
            spread = amount * scales[name][1][:, None, None]
            for image, seed in zip(images[name], mix(seeds), strict=True):
                draw = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
                image[...] = _as(image.dtype, image + draw * spread)
        return images

    return apply


def band_dropout(probability: float, scales: Scales) -> Op:
    """Set each band to its mean with this probability; one band of the sample, drawn at random, always stays."""

    def apply(images: Images, seeds: np.ndarray) -> Images:
        bands = [(name, band) for name in scales for band in range(len(scales[name][0]))]
        for sample, seed in enumerate(mix(seeds)):
            rng = np.random.default_rng(seed)
            dropped = rng.random(len(bands)) < probability
            dropped[rng.integers(len(bands))] = False
            for name, band in (bands[i] for i in np.flatnonzero(dropped)):
                images[name][sample, band] = _as(images[name].dtype, scales[name][0][band])
        return images

    return apply


def modality_dropout(probability: float, scales: Scales) -> Op:
    """Set all bands of one sensor, drawn at random, to their means with this probability."""
    if len(scales) < 2:
        raise UserError(f"modality_dropout needs an input of several sensors; this one has {', '.join(scales)}")

    def apply(images: Images, seeds: np.ndarray) -> Images:
        for sample, seed in enumerate(mix(seeds)):
            rng = np.random.default_rng(seed)
            if rng.random() < probability:
                name = list(scales)[rng.integers(len(scales))]
                images[name][sample] = _as(images[name].dtype, scales[name][0])[:, None, None]
        return images

    return apply


def _as(dtype: np.dtype, values: np.ndarray) -> np.ndarray:
    if dtype.kind == "f":
        return np.asarray(values, dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def _whole(value: float) -> bool:
    return value >= 1 and value == value // 1


def _share(value: float) -> bool:
    return 0 <= value <= 1


# Name -> maker of the op from its number and the scales, the number where none is given (None: it must be), and which
# numbers are good.
OPS: dict[str, tuple[Callable[[float, Scales], Op], float | None, Callable[[float], bool], str]] = {
    "dihedral": (lambda number, scales: dihedral, 0, lambda value: value == 0, "it takes no number"),
    "crop": (lambda number, scales: crop(int(number)), None, _whole, "the size is a whole number of pixels"),
    "noise": (noise, 0.05, lambda value: 0 <= value < np.inf, "the amount is 0 or more"),
    "band_dropout": (band_dropout, 0.1, _share, "the probability is between 0 and 1"),
    "modality_dropout": (modality_dropout, 0.2, _share, "the probability is between 0 and 1"),
}


def parse(specs: Iterable[str], scales: Scales) -> list[Op]:
    """Ops from specs such as `dihedral`, `crop:64`, `noise:0.05`, in the order given.

    Raises:
        UserError: The name is unknown, or its number is missing or no number.
    """
    ops = []
    for spec in specs:
        name, _, number = spec.partition(":")
        if name not in OPS:
            raise unknown("augmentation", name, OPS)
        make, default, valid, wanted = OPS[name]
        if not number and default is None:
            raise UserError(f"augmentation {name!r} needs a number, e.g. {name}:64")
        try:
            value = float(number) if number else default
        except ValueError as error:
            raise UserError(f"augmentation {spec!r}: {error}") from error
        if not valid(value):
            raise UserError(f"augmentation {spec!r}: {wanted}")
        ops.append(make(value, scales))
    return ops


def apply(ops: list[Op], images: Images, seeds: np.ndarray) -> Images:
    """Apply ops in order, each with seeds of its own."""
    for op in ops:
        seeds = mix(seeds)
        images = op(images, seeds)
    return images
