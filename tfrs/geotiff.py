"""Rasters read and written; beside `warp`, the only file that imports rasterio."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import rasterio
import rasterio.crs
import rasterio.warp
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from tfrs.errors import BadPatch

# Neither sidecar files nor a directory listing are wanted for a patch, and one file has one reader.
_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}

RESAMPLING = ("nearest", "bilinear", "cubic")


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


def read(path: str | os.PathLike, size: tuple[int, int] | None = None, resampling: str = "nearest") -> Raster:
    """Read all bands of a raster that GDAL knows, `/vsizip/` paths included.

    Args:
        size: Rows and columns to resample to; the file's own where None.
        resampling: GDAL's method, one of `RESAMPLING`. Bilinear never leaves the range of the measured values; cubic may.

    Raises:
        BadPatch: The file is missing, truncated or no raster.
    """
    try:
        with warnings.catch_warnings(), rasterio.Env(**_OPTIONS):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(str(path), sharing=False) as source:
                rows, columns = size or source.shape
                scale = np.tile([source.width / columns, source.height / rows, 1], 2)
                return Raster(
                    source.read(out_shape=(source.count, rows, columns), resampling=Resampling[resampling]),
                    source.crs.to_string() if source.crs else "",
                    tuple((np.array(source.transform[:6]) * scale).tolist()),
                    source.nodata,
                    tuple(name or "" for name in source.descriptions),
                )
    except RasterioError as error:
        reason = "no such file" if _missing(path) else f"cannot be read ({_innermost(error)})"
        raise BadPatch(path, reason) from error


def _missing(path) -> bool:
    return not str(path).startswith("/vsi") and not os.path.exists(path)


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def write(path: str | os.PathLike, raster: Raster, colors: Mapping[int, Sequence[int]] | None = None, **profile) -> None:
    """Write a raster, as an uncompressed GeoTIFF unless `profile` says otherwise.

    Args:
        colors: Red, green and blue, 0 to 255, of values of a single band: it becomes a palette.
        profile: Creation options of rasterio, e.g. `compress="lzw"`, `driver="JPEG"`.
    """
    bands, height, width = raster.data.shape
    options = {
        "driver": "GTiff",
        "count": bands,
        "height": height,
        "width": width,
        "dtype": raster.data.dtype,
        "crs": raster.crs or None,
        "transform": rasterio.Affine(*raster.transform) if raster.crs else None,
        "nodata": raster.nodata,
    }
    with warnings.catch_warnings(), rasterio.Env(**_OPTIONS):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(str(path), "w", **{**options, **profile}) as target:
            target.write(raster.data)
            if raster.descriptions:
                target.descriptions = raster.descriptions
            if colors:
                target.write_colormap(1, {value: tuple(color) for value, color in colors.items()})


def project(x: np.ndarray, y: np.ndarray, source: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N,) of one CRS in another, both as in `Raster.crs`; longitude and latitude are x and y."""
    east, north = rasterio.warp.transform(source, target, x, y)
    return np.array(east), np.array(north)


def wkt(crs: str) -> str:
    """A CRS of `Raster.crs` as well-known text."""
    return rasterio.crs.CRS.from_string(crs).to_wkt()
