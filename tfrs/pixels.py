"""Pixels of records, copied once: from the memory-mapped shards into the batch."""

import itertools

import numpy as np

from tfrs.augment.geometry import spaced, symmetry
from tfrs.schema import Field

ALIGNMENT = 64  # bytes; TensorFlow takes over a NumPy array without a copy when it starts at such an address


def gather(
    shards: list[np.ndarray], starts: np.ndarray, field: Field, positions: tuple[int, ...], symmetries: list[int] | None = None
) -> np.ndarray:
    """Wanted bands of one raster of several records, each run of neighbouring bands in one copy, or turned in two.

    Args:
        shards: The shard of each record, as bytes.
        starts: Offset of the raster in it.
        field: The raster's, or that of a series of which `starts` point to one image each.
        positions: The bands wanted, in order.
        symmetries: How each record's raster, a square, is turned meanwhile (`geometry.symmetry`).

    Returns:
        Array (B, C, H, W) at an aligned address.
    """
    batch = aligned((len(shards), len(positions), *field.shape[-2:]), np.dtype(field.dtype))
    size = batch[0, 0].nbytes
    places = zip(shards, starts.tolist(), strict=True)
    if symmetries is None:
        runs = _runs(positions, size)
        parts = [shard[at + first : at + last] for shard, at in places for first, last in runs]
        np.concatenate(parts, out=batch.reshape(-1).view(np.uint8))
        return batch
    # Red, green and blue are stored in the opposite order: taken backwards, they are one run and not three.
    order = min(1, -1, key=lambda step: len(_runs(positions[::step], size)))
    runs = _runs(positions[::order], size)
    # Through a copy within the cache: read from the shard out of order, bands take up to 1.5 times as long.
    copy = spaced(batch.shape[1:], batch.dtype)
    turned = [symmetry(copy[::order], code) for code in range(8)]
    ends = itertools.accumulate(((last - first) // size for first, last in runs), initial=0)
    targets = [copy[begin:end].view(np.uint8) for begin, end in itertools.pairwise(ends)]
    for image, (shard, at), code in zip(batch, places, symmetries, strict=True):
        for target, (first, last) in zip(targets, runs, strict=True):
            target[...] = shard[at + first : at + last].reshape(target.shape)
        image[...] = turned[code]
    return batch


def _runs(positions: tuple[int, ...], size: int) -> list[tuple[int, int]]:
    """Bytes from and to (exclusive) of each run of neighbours among bands of `size` bytes."""
    starts = [i for i, at in enumerate(positions) if i == 0 or at != positions[i - 1] + 1]
    ends = [*starts[1:], len(positions)]
    return [(positions[i] * size, (positions[end - 1] + 1) * size) for i, end in zip(starts, ends, strict=True)]


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of uninitialised values at an aligned address."""
    size = int(np.prod(shape)) * dtype.itemsize
    block = np.empty(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size].view(dtype).reshape(shape)
