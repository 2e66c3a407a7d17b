"""Rasters read and written; beside `warp`, the only file that imports rasterio."""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import rasterio
import rasterio.crs
import rasterio.shutil
import rasterio.warp
import rasterio.windows
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from tfrs import archive, tiff
from tfrs.errors import BadPatch, UserError

# Neither sidecar files nor a directory listing are wanted for a patch, and one file has one reader.
_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}

# Of GDAL's cache of blocks, which takes a twentieth of the machine's memory otherwise. A row of 1024-pixel blocks of a whole
# Sentinel-2 tile in ten bands is 225 MB. In bytes: rasterio sets a small number as it is, and blocks are decoded at each read.
CACHE_BYTES = 384 << 20

# `rasterio.shutil.copy` and transformations of coordinates let errors of GDAL through as they are.
FAILURES = (RasterioError, CPLE_BaseError)


@dataclass(frozen=True)
class Raster:
    """An image and its place on Earth.

    Attributes:
        data: Array (C, H, W) in the file's own dtype.
        crs: `EPSG:<code>` where there is one, else WKT; empty where the file has none.
        transform: Affine coefficients a b c d e f: x = a * column + b * row + c, y = d * column + e * row + f.
        nodata: The value the file declares as nodata, None where it declares none.
        descriptions: Band names the file carries; empty strings where it carries none.
    """

    data: np.ndarray
    crs: str = ""
    transform: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    nodata: float | None = None
    descriptions: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a raster lie: CRS and transform as of `Raster`, and the number of rows and columns."""

    crs: str
    transform: tuple[float, ...]
    height: int
    width: int

    def part(self, top: int, left: int, height: int, width: int, cell: int = 1) -> "Grid":
        """The grid of a window, whose pixels may be `cell` times as long and wide; sizes are in those."""
        a, b, c, d, e, f = self.transform
        corner = (a * left + b * top + c, d * left + e * top + f)
        return Grid(self.crs, (a * cell, b * cell, corner[0], d * cell, e * cell, corner[1]), height, width)

    def cells(self, size: int) -> "Grid":
        """The grid of cells of `size` x `size` pixels that cover this one; the last row and column may reach beyond it."""
        return self.part(0, 0, -(-self.height // size), -(-self.width // size), size)


@dataclass(frozen=True)
class Header:
    """What a raster says of itself without its pixels: its place, and of its bands what `Raster` has of them."""

    grid: Grid
    dtype: str
    nodata: float | None
    descriptions: tuple[str, ...]


def header(path: str) -> Header:
    """The header of a raster, by GDAL's name for it.

    Raises:
        UserError: The file is missing or no raster.
    """
    try:
        with warnings.catch_warnings(), rasterio.open(path) as source:  # with sidecar files: CRS and names may stand there
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            grid = Grid(source.crs.to_string() if source.crs else "", source.transform[:6], source.height, source.width)
            return Header(grid, source.dtypes[0], source.nodata, tuple(name or "" for name in source.descriptions))
    except RasterioError as error:
        raise UserError(f"{path}: cannot be read as a raster ({_innermost(error)})") from error


def read(path: str | os.PathLike) -> Raster:
    """Read all bands of a raster that GDAL knows, in a file or in an archive (see `archive`).

    Plain TIFF is read without GDAL, with the same result. Pixels may be read-only.

    Raises:
        BadPatch: The file is missing, truncated or no raster.
    """
    content = _content(path)
    plain = tiff.read(content) if content else None
    if plain is not None and plain.geokeys in _CRS:
        return Raster(plain.data, _CRS[plain.geokeys], plain.transform, plain.nodata, plain.descriptions)
    size = len(content) if content else math.inf
    try:
        if content is None or os.path.exists(path):
            raster = _read(str(path), size, plain)
        else:
            with rasterio.MemoryFile(content) as memory:
                raster = _read(memory.name, size, plain)
    # rasterio decodes texts of damaged files without a guard, and asks for whatever memory these speak of.
    except (RasterioError, UnicodeDecodeError, MemoryError) as error:
        raise BadPatch(path, f"cannot be read ({_innermost(error)})") from error
    if plain is not None and len(_CRS) < 1000:
        _CRS[plain.geokeys] = raster.crs
    return raster


# CRS by the tags that say it: GDAL interprets them at their first appearance, so that it is always GDAL's own word.
_CRS: dict[tuple, str] = {}
# Of larger files, opening is the lesser part, and they may be compressed: GDAL shall not wait for all of their bytes.
_PLAIN_BYTES = 1 << 26


def _content(path) -> bytes | None:
    """The bytes of a patch's file; None of what only GDAL can or should open."""
    try:
        return None if str(path).startswith("/vsi") else archive.read_bytes(path, _PLAIN_BYTES)
    except FileNotFoundError as error:
        raise BadPatch(path, "no such file") from error
    except OSError as error:
        raise BadPatch(path, f"cannot be read ({error.strerror or error})") from error


# Deflate makes 1,032 bytes of one at most; a single colour under other codecs comes to more, but seldom to so many in a patch.
_MOST_PER_BYTE, _HARMLESS = 2000, 1 << 28


def _read(name: str, size: float, plain: tiff.Plain | None) -> Raster:
    with warnings.catch_warnings(), rasterio.Env(**_OPTIONS):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(name, sharing=False) as source:
            shape, itemsize = (source.count, source.height, source.width), np.dtype(source.dtypes[0]).itemsize
            if source.count > size or math.prod(shape) * itemsize > max(_HARMLESS, _MOST_PER_BYTE * size):
                text = f"says that it has {source.count} bands of {source.height}x{source.width} pixels, in {size} bytes"
                raise RasterioError(text)
            return Raster(
                source.read() if plain is None else plain.data,
                source.crs.to_string() if source.crs else "",
                source.transform[:6],
                source.nodata,
                tuple(name or "" for name in source.descriptions),
            )


def resample(raster: Raster, size: tuple[int, int], method: str) -> np.ndarray:
    """The pixels (C, *size) that GDAL gives a raster in another number of rows and columns, see `resampling`."""
    with rasterio.MemoryFile() as memory:
        write(memory.name, raster)
        with warnings.catch_warnings(), rasterio.open(memory.name) as source:
            return source.read(out_shape=(source.count, *size), resampling=Resampling[method])


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def _told(path):
    """Turn what rasterio says of a file that it cannot write into a UserError."""
    try:
        yield
    except FAILURES as error:
        guess = "; is the disk full?" if os.path.exists(path) else ""  # it could be opened
        raise UserError(f"{path}: cannot be written ({_innermost(error)}){guess}") from error


def write(path: str | os.PathLike, raster: Raster, colors: Mapping[int, Sequence[int]] | None = None, **profile) -> None:
    """Write a raster, as an uncompressed GeoTIFF unless `profile` says otherwise.

    Args:
        colors: Red, green and blue, 0 to 255, of values of a single band: it becomes a palette.
        profile: Creation options of rasterio, e.g. `compress="lzw"`, `driver="JPEG"`.
    """
    bands, height, width = raster.data.shape
    grid = Grid(raster.crs, raster.transform, height, width)
    options = {"count": bands, "nodata": raster.nodata, "descriptions": raster.descriptions, **profile}
    with rows(path, grid, raster.data.dtype, colors=colors, **options) as put:
        put(0, 0, raster.data)


@contextlib.contextmanager
def rows(
    path: str | os.PathLike,
    grid: Grid,
    dtype,
    *,
    colors: Mapping[int, Sequence[int]] | None = None,
    descriptions: Sequence[str] = (),
    scale: float | None = None,
    **profile,
) -> Iterator[Callable[[int, int, np.ndarray], None]]:
    """Write a raster piece by piece; yields `put(top, left, data (bands, rows, columns))`.

    Args:
        colors: As of `write`.
        descriptions: Names of the bands.
        scale: Of which the values are multiples, where they are not meant as they stand.
        profile: As of `write`; `count` where there are several bands, and `nodata`.
    """
    options = {
        "driver": "GTiff",
        "count": 1,
        "height": grid.height,
        "width": grid.width,
        "dtype": dtype,
        "crs": grid.crs or None,
        "transform": rasterio.Affine(*grid.transform) if grid.crs else None,
    }
    with _told(path), warnings.catch_warnings(), rasterio.Env(**_OPTIONS, GDAL_CACHEMAX=CACHE_BYTES):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(str(path), "w", **{**options, **profile}) as target:
            if colors:  # before the pixels: afterwards, the file would not say that it has a palette
                target.write_colormap(1, {value: tuple(color) for value, color in colors.items()})

            def put(top: int, left: int, data: np.ndarray) -> None:
                target.write(data, window=rasterio.windows.Window(left, top, data.shape[2], data.shape[1]))

            yield put
            if descriptions:
                target.descriptions = descriptions
            if scale:
                target.scales = [scale] * target.count
        rasterio.open(str(path)).close()  # GDAL passes over a disk that fills while it closes a file: then, there is no header


def copy(source: str | os.PathLike, target: str | os.PathLike, **options) -> None:
    """Copy a raster into another format, and read it back, see `rows`.

    Args:
        options: `driver`, and creation options that GDAL has for it.
    """
    with _told(target), warnings.catch_warnings(), rasterio.Env(**_OPTIONS, GDAL_CACHEMAX=CACHE_BYTES):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        rasterio.shutil.copy(str(source), str(target), **options)
        with rasterio.open(source) as wanted, rasterio.open(target) as found:
            for _, window in found.block_windows(1):
                if not np.array_equal(wanted.read(window=window), found.read(window=window)):
                    raise RasterioError("what is read back is not what was written")


def project(x: np.ndarray, y: np.ndarray, source: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N,) of one CRS in another, both as in `Raster.crs`; longitude and latitude are x and y."""
    east, north = rasterio.warp.transform(source, target, x, y)
    return np.array(east), np.array(north)


def metres(crs: str) -> float | None:
    """Metres per unit of a projected CRS of `Raster.crs`; None of another one."""
    found = rasterio.crs.CRS.from_string(crs)
    return found.linear_units_factor[1] if found.is_projected else None


def in_degrees(crs: str) -> bool:
    """Whether a CRS of `Raster.crs` is longitude and latitude."""
    return rasterio.crs.CRS.from_string(crs).is_geographic


def wkt(crs: str) -> str:
    """A CRS of `Raster.crs` as well-known text."""
    return rasterio.crs.CRS.from_string(crs).to_wkt()
