"""Rasters of a patch in another number of rows and columns: GDAL's values, and for whole factors without GDAL."""

from dataclasses import replace

import numpy as np

from tfrs import geotiff
from tfrs.geotiff import Raster

METHODS = ("nearest", "bilinear", "cubic")


def resample(raster: Raster, size: tuple[int, int], method: str = "nearest") -> Raster:
    """The same ground in another number of rows and columns, with GDAL's values.

    Args:
        method: GDAL's, one of `METHODS`. Bilinear never leaves the range of the measured values; cubic may.
    """
    rows, columns = raster.data.shape[1:]
    factor = size[0] // rows
    enlarged = factor > 0 and size == (factor * rows, factor * columns)
    # GDAL leaves nodata pixels out, and does not let a mean become the nodata value.
    without = raster.nodata is None or not raster.data.min() <= raster.nodata <= raster.data.max()
    if enlarged and method == "nearest":
        data = raster.data.repeat(factor, 1).repeat(factor, 2)
    elif enlarged and method == "bilinear" and raster.data.dtype == np.uint16 and without and factor <= _EXACT:
        data = np.stack([_bilinear(band, factor) for band in raster.data])
    else:
        data = geotiff.resample(raster, size, method)
    scale = np.tile([columns / size[1], rows / size[0], 1], 2)
    return replace(raster, data=data, transform=tuple((np.array(raster.transform) * scale).tolist()))


_EXACT = 11  # the largest factor at which GDAL's rounding of sums to float32 moves no value to another whole number


def _bilinear(band: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge (H, W) uint16 by a whole factor, in whole numbers: weights are multiples of 1 / (2 factor). Halves go up."""
    across = _stretch(np.ascontiguousarray(band.T, np.uint32), factor)
    sums = _stretch(np.ascontiguousarray(across.T), factor)
    return ((sums + 2 * factor**2) // (4 * factor**2)).astype(np.uint16)


def _stretch(rows: np.ndarray, factor: int) -> np.ndarray:
    """Interpolate rows (H, W) to (H * factor, W), times 2 factor. Not by a matrix: threads of BLAS get in workers' way."""
    padded = np.concatenate([rows[:1], rows, rows[-1:]])
    new = np.empty((len(rows), factor, rows.shape[1]), np.uint32)
    for i in range(factor):
        before, share = divmod(2 * i + 1 - factor, 2 * factor)  # the new centre, from that of the old row
        first, second = padded[1 + before :][: len(rows)], padded[2 + before :][: len(rows)]
        new[:, i] = first * np.uint32(2 * factor - share) + second * np.uint32(share)
    return new.reshape(-1, rows.shape[1])
