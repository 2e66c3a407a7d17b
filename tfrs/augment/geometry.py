"""Augmentations that move pixels, of every raster of a sample alike.

Between pixels, images are interpolated bilinearly and maps take the nearest number. A pixel has data where the nearest one of
the source has; neighbours without data have no part in its value.
"""

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np

from tfrs.augment.layers import Images, Layer, Op
from tfrs.augment.seeds import mix, uniform
from tfrs.errors import UserError

GAP = 4  # pixels


def dihedral(layers: Mapping[str, Layer]) -> Op:
    """One of the 8 flips and quarter turns of the square, each with the same probability."""

    def apply(images: Images, seeds: np.ndarray) -> Images:
        codes = symmetries(seeds)
        for name, batch in images.items():
            height, width = batch.shape[2:]
            if height != width:
                raise UserError(f"dihedral needs square images, {name} is {height}x{width}; crop first")
            copy = spaced(batch.shape[1:], batch.dtype)
            for image, code in zip(batch, codes, strict=True):
                if code:
                    copy[...] = image
                    image[...] = symmetry(copy, code)
        return images

    return apply


def symmetries(seeds: np.ndarray) -> list[int]:
    """The symmetry that `dihedral` gives to each sample, from the seeds that it gets."""
    return (mix(seeds) % np.uint64(8)).tolist()


def spaced(shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    """An array (C, H, W) of uninitialised values, with a gap between rows that would be a multiple of 256 bytes apart.

    Such rows share few places of the cache, and a transposed image runs through its columns: with a gap it took a fifth of the
    time (256x256 uint16). Elsewhere a gap only costs.
    """
    *outer, width = shape
    gap = GAP if width * dtype.itemsize % 256 == 0 else 0
    return np.empty((*outer, width + gap), dtype)[..., :width]


def symmetry(image: np.ndarray, code: int) -> np.ndarray:
    """View of an image (C, H, W) under symmetry 0..7: bit 0 flips left-right, bit 1 up-down, bit 2 transposes."""
    image = image[:, :, ::-1] if code & 1 else image
    image = image[:, ::-1] if code & 2 else image
    return image.transpose(0, 2, 1) if code & 4 else image


def crop(layers: Mapping[str, Layer], size: int) -> Op:
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


def resized_crop(layers: Mapping[str, Layer], size: int, smallest: float) -> Op:
    """A window of `smallest` to 1 of the area and with sides of 3:4 to 4:3, at a random place, as `size` x `size` pixels.

    Szegedy et al. 2015, section 6. Where the window is larger than that, each new pixel is a mean over all that it covers.
    """

    def apply(images: Images, seeds: np.ndarray) -> Images:
        resized = {name: np.empty((*batch.shape[:2], size, size), batch.dtype) for name, batch in images.items()}
        for number, seed in enumerate(seeds):
            window = (slice(None), *draw_window(seed, *next(iter(images.values())).shape[2:], smallest))
            for name, batch in images.items():
                resized[name][number] = _resize(batch[number][window], layers[name], size)
        return resized

    return apply


def draw_window(seed: int, height: int, width: int, smallest: float) -> tuple[slice, slice]:
    """Rows and columns of a window of `resized_crop`."""
    rng = np.random.default_rng(seed)
    area = rng.uniform(smallest, 1) * height * width
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    ratio = min(max(ratio, area / height**2), width**2 / area)  # so that it fits
    high, wide = max(1, round(math.sqrt(area / ratio))), max(1, round(math.sqrt(area * ratio)))
    top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
    return slice(top, top + high), slice(left, left + wide)


def _resize(image: np.ndarray, layer: Layer, size: int) -> np.ndarray:
    (rows, down, vertical), (columns, across, horizontal) = (_triangles(length, size) for length in image.shape[1:])

    def nearest(pixels):
        return pixels[:, rows[:, None], columns]

    def weighted(values):
        # A product with the dense matrix of weights measured 1.3 (to 128 pixels) to 1.9 (to 256) times as long.
        values = sum(values.take(at, 1, mode="clip") * weight[:, None] for at, weight in zip(down, vertical, strict=True))
        return sum(values.take(at, 2, mode="clip") * weight for at, weight in zip(across, horizontal, strict=True))

    return _resample(image, layer, nearest, weighted)


@functools.lru_cache(maxsize=1024)
def _triangles(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest of `length` pixels at `size` places (size,), neighbours (n, size) of each and their weights (n, size).

    The weights are a triangle around the place. It reaches as far as a pixel of the source, or of the target where those are
    larger, so that nothing between them is left out (aliasing).
    """
    step = length / size
    places = (np.arange(size) + 0.5) * step
    weights = np.maximum(0, 1 - np.abs(places[:, None] - 0.5 - np.arange(length)) / max(step, 1))
    count = (weights > 0).sum(axis=1).max()
    neighbours = np.minimum((weights > 0).argmax(axis=1), length - count)[:, None] + np.arange(count)
    weights = np.take_along_axis(weights, neighbours, axis=1)
    return places.astype(int), neighbours.T, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32).T


def rotate(layers: Mapping[str, Layer], largest: float) -> Op:
    """A turn by any angle up to `largest` degrees to either side around the centre; corners that were outside have no data."""

    def apply(images: Images, seeds: np.ndarray) -> Images:
        for number, angle in enumerate(np.deg2rad(largest * (2 * uniform(seeds) - 1)).tolist()):
            shape = next(iter(images.values())).shape[2:]
            nearest, bilinear = _turned(angle, *shape)
            for name, batch in images.items():
                batch[number] = _resample(batch[number], layers[name], nearest, bilinear)
        return images

    return apply


def _turned(angle: float, height: int, width: int) -> tuple[Callable, Callable]:
    """Functions from an image (C, H, W), taken as 0 outside, to its nearest and bilinear values after a turn."""
    row, column = np.arange(height)[:, None] - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    y = np.clip(math.cos(angle) * row + math.sin(angle) * column + (height - 1) / 2, -1, height)
    x = np.clip(math.cos(angle) * column - math.sin(angle) * row + (width - 1) / 2, -1, width)
    top, left = np.floor(y), np.floor(x)
    down, right = (y - top).astype(np.float32), (x - left).astype(np.float32)
    # In a frame of zeros, one row and column before and two after, all four neighbours of every place exist.
    stride = width + 3
    first = ((top + 1) * stride + left + 1).astype(np.intp)
    closest = first + (down >= 0.5) * stride + (right >= 0.5)
    weights = {0: (1 - down) * (1 - right), 1: (1 - down) * right, stride: down * (1 - right), stride + 1: down * right}

    def framed(band):
        return np.pad(band, (1, 2)).ravel()

    def nearest(pixels):
        return np.stack([framed(band).take(closest, mode="clip") for band in pixels])

    def bilinear(values):
        turned = np.zeros(values.shape, np.float32)
        for band, total in zip(values, turned, strict=True):
            frame = framed(band)
            for step, weight in weights.items():
                total += frame[step:].take(first, mode="clip") * weight
        return turned

    return nearest, bilinear


def _resample(image: np.ndarray, layer: Layer, nearest: Callable, weighted: Callable) -> np.ndarray:
    """An image (C, H, W) at other places: `nearest` takes values there, `weighted` sums up neighbours times their weights."""
    absent = layer.missing(image)
    # One mask serves all bands where every pixel has data: the place alone then says what is outside.
    present = ~absent if absent.any() else np.ones((1, *image.shape[1:]), bool)
    known = nearest(present)
    if layer.is_map:
        return np.where(known, nearest(image), layer.fill(image.dtype))
    values = image.astype(np.float32)
    values[absent] = 0
    share = np.where(known, weighted(present.astype(np.float32)), 1)
    return np.where(known, layer.rounded(weighted(values) / share, image.dtype), layer.fill(image.dtype))
