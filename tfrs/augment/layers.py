"""What augmentations know of a raster, and how they write values into it: no pixel gains or loses its data by rounding."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tfrs.errors import UserError
from tfrs.records import Records
from tfrs.sensors import DECIBEL, Sensor

# Rasters of a batch by name: (B, C, H, W) in the stored dtype.
Images = dict[str, np.ndarray]
# An op takes the rasters and a 64-bit seed per sample, and returns the rasters; it may write into those it was given.
Op = Callable[[Images, np.ndarray], Images]


@dataclass(frozen=True)
class Layer:
    """A raster of a batch: bands of a sensor, or a map of classes.

    Attributes:
        nodata: Value of a pixel without data (NaN always is one), or None; in a map a number that stands for no class.
        mean: Per band (C,) over the training split, in the raster's unit. None for a map, whose numbers are no quantities.
        std: The standard deviation, likewise.
        decibels: The values are decibels.
    """

    nodata: float | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    decibels: bool = False

    @property
    def is_map(self) -> bool:
        return self.mean is None

    def fill(self, dtype: np.dtype) -> np.ndarray:
        """What is written where there is no data, per band (C, 1, 1): nodata, or the mean where the sensor has none."""
        if self.nodata is not None:
            return np.full((1, 1, 1), self.nodata, dtype)
        return self.rounded(self.mean, dtype)[:, None, None]

    def missing(self, image: np.ndarray) -> np.ndarray:
        """Where an image has no data."""
        absent = np.isnan(image) if image.dtype.kind == "f" else np.zeros(image.shape, bool)
        return absent if self.nodata is None else absent | (image == self.nodata)

    def rounded(self, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Values as a dtype; whole numbers are rounded, and cut off at the limits of the type and beside nodata."""
        if dtype.kind == "f":
            return np.asarray(values, dtype)
        limits = np.iinfo(dtype)
        low, high = limits.min + (self.nodata == limits.min), limits.max - (self.nodata == limits.max)
        return np.clip(np.rint(values), low, high).astype(dtype)

    def change(self, image: np.ndarray, function: Callable[[np.ndarray, int], np.ndarray]) -> None:
        """Replace the pixels that have data by `function(float32 values, number of the band)`, band by band."""
        # One band with its intermediate values fits the cache: measured 1.6 to 1.9 times as fast as 13 bands at once.
        for number, band in enumerate(image):
            absent = self.missing(band)
            place = ~absent if absent.any() else ...
            if (values := band[place].astype(np.float32)).size:
                band[place] = self.rounded(function(values, number), band.dtype)


def imagery(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """The layers that are no maps."""
    return {name: layer for name, layer in layers.items() if not layer.is_map}


def of(records: Records, sensors: Mapping[str, Sensor], maps: Iterable[str]) -> dict[str, Layer]:
    """The layers of the sensors of an input and of maps of classes.

    Raises:
        UserError: A band has no statistics.
    """
    return {name: _sensor(records, sensor) for name, sensor in sensors.items()} | {name: _map(records, name) for name in maps}


def _sensor(records: Records, sensor: Sensor) -> Layer:
    rows = [records.statistics[sensor.name][band] for band in sensor.bands]
    if any(row["mean"] is None for row in rows):
        raise UserError(f"{records.directory}: no statistics of {sensor.name} (the records have no training split)")
    mean, std = (np.array([row[name] for row in rows]) for name in ("mean", "std"))
    nodata = np.nan if sensor.nodata is None and np.dtype(sensor.dtype).kind == "f" else sensor.nodata
    return Layer(nodata, mean, std, sensor.unit == DECIBEL)


def _map(records: Records, name: str) -> Layer:
    numbers = records.schema.scheme(name).numbers
    return Layer(next(number for number in itertools.count() if number not in numbers))
