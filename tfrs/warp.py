"""Any georeferenced raster or outline on the grid of another; beside `geotiff`, the only user of rasterio."""

import contextlib
import functools
import json
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import rasterio
import rasterio.features
import rasterio.transform
import rasterio.vrt
import rasterio.warp
import rasterio.windows
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from tfrs.errors import BadPatch, UserError
from tfrs.geotiff import CACHE_BYTES, FAILURES, Grid

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


@contextlib.contextmanager
def bands(
    places: Sequence[tuple[str, int]], grid: Grid, resampling: str, nodata: float | None
) -> Iterator[Callable[[int, int, int, int], np.ndarray]]:
    """Bands of any rasters as if all lay on one grid, which they are brought to window by window.

    Yields `read(top, left, height, width)`, which gives (bands, height, width) of a window inside the grid, in the bands' own
    dtype. What lies on the grid already is read as it is; the rest is resampled, without pixels that have no data.

    Args:
        places: GDAL's name of the raster of each band, and the band's number there, counted from 1.
        resampling: One of `resampling.METHODS`.
        nodata: What pixels hold that a raster does not cover, and pixels without data where a raster declares none.

    Raises:
        UserError: A raster cannot be read, or placed.
    """
    with contextlib.ExitStack() as stack, _told(places[0][0]):
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        sources = {path: stack.enter_context(_placed(path, grid, resampling, nodata)) for path, _ in places}

        def read(top: int, left: int, height: int, width: int) -> np.ndarray:
            window = rasterio.windows.Window(left, top, width, height)
            found = {}
            for path, source in sources.items():
                numbers = [number for other, number in places if other == path]
                with _told(path):
                    found |= {(path, n): band for n, band in zip(numbers, source.read(numbers, window=window), strict=True)}
            return np.stack([found[place] for place in places])

        yield read


@contextlib.contextmanager
def _told(path: str):
    try:
        yield
    except RasterioError as error:
        raise UserError(f"{path}: cannot be read as a raster ({error.__cause__ or error})") from error


@contextlib.contextmanager
def _placed(path: str, grid: Grid, resampling: str, nodata: float | None):
    """A raster, or a view of it on the grid."""
    with _told(path), rasterio.open(path) as source:
        crs = source.crs.to_string() if source.crs else ""
        if Grid(crs, source.transform[:6], source.height, source.width) == grid:
            yield source
            return
        if not crs or not grid.crs:
            why = " (only ground control points: terrain-correct it first)" if source.gcps[0] else ""
            raise UserError(f"{path}: has no CRS{why}, so it cannot be placed on the scene's {grid.width}x{grid.height} pixels")
        with rasterio.vrt.WarpedVRT(
            source,
            crs=grid.crs,
            transform=rasterio.Affine(*grid.transform),
            width=grid.width,
            height=grid.height,
            resampling=Resampling[resampling],
            src_nodata=nodata if source.nodata is None else source.nodata,
            nodata=nodata if nodata is not None else source.nodata,
        ) as view:
            yield view


def outline(path: str, crs: str) -> list[dict]:
    """Polygons of a GeoJSON file, which is in longitude and latitude, in a CRS.

    Raises:
        UserError: The file is missing, no GeoJSON, or has no polygon.
    """
    try:
        with open(path) as file:
            content = json.load(file)
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
        shapes = [feature["geometry"] if feature["type"] == "Feature" else feature for feature in features]
        polygons = [shape for shape in shapes if shape["type"] in ("Polygon", "MultiPolygon")]
        placed = [rasterio.warp.transform_geom("EPSG:4326", crs, polygon) for polygon in polygons]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; --aoi takes a GeoJSON file") from error
    except (ValueError, KeyError, TypeError, *FAILURES) as error:
        raise UserError(f"{path}: is no GeoJSON in degrees ({error}); --aoi takes one with polygons, in EPSG:4326") from error
    if not polygons:
        raise UserError(f"{path}: has no polygon; --aoi takes a GeoJSON file with polygons, in EPSG:4326")
    return placed


def extent(polygons: list[dict], grid: Grid) -> tuple[int, int, int, int] | None:
    """The window (top, left, height, width) of a grid that holds polygons, None where they lie outside."""
    west, south, east, north = (
        pick(values)
        for pick, values in zip((min, min, max, max), zip(*map(rasterio.features.bounds, polygons), strict=True), strict=True)
    )
    corners = np.array([(west, south), (west, north), (east, south), (east, north)]).T
    columns, lines = _apply(~rasterio.Affine(*grid.transform), *corners)
    left, right = np.clip([np.floor(columns.min()), np.ceil(columns.max())], 0, grid.width).astype(int).tolist()
    top, bottom = np.clip([np.floor(lines.min()), np.ceil(lines.max())], 0, grid.height).astype(int).tolist()
    return (top, left, bottom - top, right - left) if right > left and bottom > top else None


def share_covered(grid: Grid, other: Grid) -> float:
    """Share of a grid that another one covers, by the boxes around both in the first one's CRS."""
    box, found = _box(grid), _box(other)
    if other.crs != grid.crs:
        try:
            found = rasterio.warp.transform_bounds(other.crs, grid.crs, *found)
        except FAILURES:  # so far away that it has no place there
            return 0.0
    across, down = (max(0, min(box[i + 2], found[i + 2]) - max(box[i], found[i])) for i in (0, 1))
    return across * down / ((box[2] - box[0]) * (box[3] - box[1]))


def _box(grid: Grid) -> tuple[float, float, float, float]:
    """West, south, east and north of a grid."""
    west, south, east, north = rasterio.transform.array_bounds(grid.height, grid.width, rasterio.Affine(*grid.transform))
    return west, min(south, north), east, max(south, north)


def inside(polygons: list[dict], grid: Grid) -> np.ndarray:
    """Pixels (height, width) of a grid whose centres lie in one of the polygons."""
    size, transform = (grid.height, grid.width), rasterio.Affine(*grid.transform)
    return rasterio.features.geometry_mask(polygons, size, transform, invert=True)
