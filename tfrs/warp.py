"""Any georeferenced raster on the grid of a patch, by nearest neighbour; beside `geotiff`, the only user of rasterio."""

import functools
import threading
from collections.abc import Sequence

import numpy as np
import rasterio
import rasterio.warp
import rasterio.windows
from rasterio.errors import RasterioError

from tfrs.errors import BadPatch, UserError

_lock = threading.Lock()  # a GDAL data set serves one thread at a time


@functools.lru_cache(maxsize=64)
def _open(path: str) -> rasterio.DatasetReader:
    try:
        source = rasterio.open(path)
    except RasterioError as error:
        raise UserError(f"{path}: cannot be read as a raster ({error})") from error
    if source.crs is None:
        raise UserError(f"{path}: has no CRS, so it cannot be placed on the patches")
    if source.count != 1:
        raise UserError(f"{path}: has {source.count} bands, a layer has one")
    return source


def dtype(path: str) -> str:
    """Pixel type of a raster.

    Raises:
        UserError: It is no raster with one band and a CRS.
    """
    return _open(path).dtypes[0]


def onto(paths: Sequence[str], crs: str, transform: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """Values (1, rows, columns) at the centres of a grid's pixels, from the first raster that has one there.

    Pixels without any get the first raster's nodata value.

    Args:
        paths: Rasters of one band and one dtype, each in any CRS.
        crs: CRS of the grid.
        transform: Affine coefficients a b c d e f of the grid.

    Raises:
        BadPatch: A pixel is not covered and no nodata value is declared.
        UserError: A file is no such raster.
    """
    rows, columns = np.indices(size).reshape(2, -1) + 0.5
    x, y = _apply(rasterio.Affine(*transform), columns, rows)
    first = _open(paths[0])
    values = np.full(rows.shape, first.nodata or 0, first.dtypes[0])
    missing = np.ones(rows.shape, bool)
    for path in paths:
        source = _open(path)
        if source.dtypes != first.dtypes:
            raise UserError(f"{path}: dtype {source.dtypes[0]} differs from {first.dtypes[0]} of {paths[0]}")
        there = np.array(rasterio.warp.transform(crs, source.crs, x[missing], y[missing]))
        column, row = np.floor(_apply(~source.transform, *there)).astype(np.int64)
        inside = (column >= 0) & (column < source.width) & (row >= 0) & (row < source.height)
        if inside.any():
            places = np.flatnonzero(missing)[inside]
            values[places], known = _read(source, row[inside], column[inside])
            missing[places] = ~known
        if not missing.any():
            break
    if missing.any() and first.nodata is None:
        raise BadPatch(paths[0], f"leaves {int(missing.sum())} of {missing.size} pixels uncovered and declares no nodata value")
    return values.reshape(1, *size)


def _apply(affine: rasterio.Affine, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f])


def _read(source: rasterio.DatasetReader, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values at pixels of a raster, by one read of the window that holds them, and which of them are not nodata."""
    top, left = int(row.min()), int(column.min())
    window = rasterio.windows.Window(left, top, int(column.max()) - left + 1, int(row.max()) - top + 1)
    with _lock:
        values = source.read(1, window=window)[row - top, column - left]
    if source.nodata is None:
        return values, np.ones(values.shape, bool)
    return values, ~np.isnan(values) if np.isnan(source.nodata) else values != source.nodata
