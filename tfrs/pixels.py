"""Pixels of records, copied once: from the memory-mapped shards into the batch."""

import itertools
from collections.abc import Iterator

import numpy as np

from tfrs.schema import Field

ALIGNMENT = 64  # bytes; TensorFlow takes over a NumPy array without a copy when it starts at such an address


def gather(shards: list[np.ndarray], starts: np.ndarray, field: Field, positions: tuple[int, ...]) -> np.ndarray:
    """Wanted bands of one raster of several records, each run of neighbouring bands in one copy.

    Args:
        shards: The shard of each record, as bytes.
        starts: Offset of the raster in it.
        field: The raster's, or that of a series of which `starts` point to one image each.
        positions: The bands wanted, in order.

    Returns:
        Array (B, C, H, W) at an aligned address.
    """
    image = aligned((len(shards), len(positions), *field.shape[-2:]), np.dtype(field.dtype))
    rows = image.view(np.uint8).reshape(len(shards), -1)
    size = rows.shape[1] // len(positions)
    runs = list(_runs(positions))
    for row, shard, start in zip(rows, shards, starts.tolist(), strict=True):
        for to, at, count in runs:
            row[to * size : (to + count) * size] = shard[start + at * size : start + (at + count) * size]
    return image


def _runs(positions: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """(first place in the batch, first place in the file, number) of each run of neighbouring bands."""
    starts = [i for i, at in enumerate(positions) if i == 0 or at != positions[i - 1] + 1]
    for start, stop in itertools.pairwise([*starts, len(positions)]):
        yield start, positions[start], stop - start


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of uninitialised values at an aligned address."""
    size = int(np.prod(shape)) * dtype.itemsize
    block = np.empty(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size].view(dtype).reshape(shape)
