"""What both versions of BigEarthNet share: options, sensors, and a patch as one GeoTIFF per band."""

import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tfrs import archive, geotiff
from tfrs.datasets.base import GEOREFERENCE, Dataset, check, check_same_grid
from tfrs.errors import BadPatch, unknown
from tfrs.geotiff import Raster
from tfrs.resampling import METHODS, resample
from tfrs.schema import Field, Sample
from tfrs.sensors import S2_BANDS, S2_SAMPLING, Sensor, sentinel1, sentinel2

SIZE = 120  # pixels of 10 m
BANDS = tuple(band for band in S2_BANDS if band != "B10")  # L2A has no B10


@dataclass(frozen=True)
class BigEarthNetPatches(Dataset):
    """The options that both versions have.

    Attributes:
        resampling: How the bands at 20 and 60 m are brought to 120x120, one of `resampling.METHODS`. Bilinear by default,
            because its values stay within those measured, where cubic overshoots at edges.
        native_resolution: Keep the bands at their own size: rasters `s2_10m`, `s2_20m` and `s2_60m` in place of `s2`.
        s1: Pair with Sentinel-1, else the records hold Sentinel-2 alone. None: `at` decides by whether its folder is there.
        keep_unrecommended: Keep patches with seasonal snow, clouds or their shadows, or no label in the 19-class scheme.
    """

    resampling: str = "bilinear"
    native_resolution: bool = False
    s1: bool | None = None
    keep_unrecommended: bool = False

    def __post_init__(self):
        if self.resampling not in METHODS:
            raise unknown("resampling", self.resampling, METHODS)

    @property
    def paired(self) -> bool:
        return self.s1 is not False

    @functools.cached_property
    def optical(self) -> tuple[Sensor, ...]:
        if not self.native_resolution:
            return (sentinel2(BANDS),)
        bands = {metres: tuple(band for band in BANDS if S2_SAMPLING[band] == metres) for metres in (10, 20, 60)}
        return tuple(replace(sentinel2(chosen), name=f"s2_{metres}m") for metres, chosen in bands.items())

    @functools.cached_property
    def sensors(self) -> tuple[Sensor, ...]:
        return (*self.optical, sentinel1()) if self.paired else self.optical

    def common_fields(self) -> dict[str, Field]:
        """The fields that the records of both versions have."""
        return {
            "key": Field("text"),
            **GEOREFERENCE,
            "date": Field("text"),
            "labels": Field("labels", scheme="bigearthnet_19"),
            **{sensor.name: Field("raster", sensor.dtype, self._shape(sensor)) for sensor in self.sensors},
        }

    def _shape(self, sensor: Sensor) -> tuple[int, int, int]:
        size = SIZE * 10 // S2_SAMPLING[sensor.bands[0]] if self.native_resolution and sensor in self.optical else SIZE
        return len(sensor.bands), size, size

    def read_rasters(self, s2: Path, s1: Path | None, tile: str) -> tuple[Sample, str, Raster]:
        """Georeference and images from a patch's folders, every band checked against the grid of B02.

        Returns:
            The fields, and the path and raster of B02 for further checks.

        Raises:
            BadPatch: A band is missing, not of its dtype or size, or on another grid, or the grid is not the tile's.
        """
        start = f"{s2}/{s2.name}_"
        files = {band: f"{start}{band}.tif" for band in BANDS}
        rasters = {band: geotiff.read(path) for band, path in files.items()}
        grid, path = rasters["B02"], files["B02"]
        if grid.crs != utm(tile):
            raise BadPatch(path, f"CRS is {grid.crs or 'missing'}, but tile {tile} lies in {utm(tile)}")
        west, north = grid.transform[2], grid.transform[5]
        grids = {m: Raster(grid.data, grid.crs, (m, 0, west, 0, -m, north)) for m in (10, 20, 60)}
        images = {}
        for band, raster in rasters.items():
            metres = S2_SAMPLING[band]
            size = SIZE * 10 // metres
            images[band] = check(files[band], raster, "uint16", (1, size, size), nodata=0)
            check_same_grid(files[band], raster, path, grids[metres])
            if metres > 10 and not self.native_resolution:
                images[band] = resample(raster, (SIZE, SIZE), self.resampling).data
        if s1:
            for band in sentinel1().bands:
                file = s1 / f"{s1.name}_{band}.tif"
                raster = geotiff.read(file)
                images[band] = check(file, raster, "float32", (1, SIZE, SIZE))
                check_same_grid(file, raster, path, grid)
        sample: Sample = {"crs": grid.crs, "transform": np.array(grid.transform)}
        sample |= {sensor.name: np.concatenate([images[band] for band in sensor.bands]) for sensor in self.sensors}
        return sample, path, grid


def utm(tile: str) -> str:
    """CRS of a Sentinel-2 tile such as 33UUP: UTM, north of the equator from latitude band N on."""
    return f"EPSG:{326 if tile[2] >= 'N' else 327}{tile[:2]}"


def day(name: str) -> str:
    """Date of acquisition, YYYY-MM-DD, from a patch name. The time behind it is no time of day: its hour may have one digit."""
    date = re.search(r"_(\d{8})T", name)[1]
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


def folder_names(folder: Path, pattern: str) -> np.ndarray:
    """Names in a folder that match a pattern, sorted, as fixed-width bytes: 20 MB for 590,326 patches.

    The pattern matches at most 64 characters.
    """
    matches = re.compile(pattern).fullmatch
    return np.sort(np.fromiter((name.encode() for name in archive.names(folder) if matches(name)), "S64"))


def among(names: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mask of the names that are in `others`, which is sorted. In place of `np.isin`, which copies both several times."""
    if not len(others):
        return np.zeros(len(names), bool)
    return others[np.minimum(np.searchsorted(others, names), len(others) - 1)] == names
