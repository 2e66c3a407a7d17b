"""Per-band statistics in float64 that can be measured patch by patch and merged."""

from dataclasses import dataclass

import numpy as np

from tfrs.sensors import Sensor


@dataclass
class BandStatistics:
    """Count, mean, sum of squared deviations, minimum and maximum of each band's valid pixels, and the others counted.

    Every attribute is an array (bands,). A pixel is valid when it is neither NaN nor the sensor's nodata value.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    nan: np.ndarray
    nodata: np.ndarray

    @classmethod
    def empty(cls, bands: int) -> "BandStatistics":
        zeros = [np.zeros(bands) for _ in range(3)]
        return cls(*zeros, np.full(bands, np.inf), np.full(bands, -np.inf), np.zeros(bands), np.zeros(bands))

    @classmethod
    def measure(cls, image: np.ndarray, nodata: float | None = None) -> "BandStatistics":
        """Statistics of one image (C, H, W)."""
        bands = image.reshape(len(image), -1)
        measure = _whole_numbers if bands.dtype.kind in "iu" and bands.dtype.itemsize <= 2 else _numbers
        return cls(*np.array([measure(band, nodata) for band in bands], np.float64).T)

    def merge(self, other: "BandStatistics") -> "BandStatistics":
        """Statistics of both sets of pixels together (Chan, Golub & LeVeque 1983)."""
        count = self.count + other.count
        weight = other.count / np.maximum(count, 1)
        delta = other.mean - self.mean
        return BandStatistics(
            count,
            self.mean + delta * weight,
            self.squares + other.squares + delta**2 * self.count * weight,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.nan + other.nan,
            self.nodata + other.nodata,
        )

    def to_json(self, sensor: Sensor) -> dict[str, dict[str, float | int | None]]:
        """Per band name: count, mean, std, min, max, nan, nodata; None where no pixel is valid."""
        rows = {}
        for i, band in enumerate(sensor.bands):
            valid = self.count[i] > 0
            rows[band] = {
                "count": int(self.count[i]),
                "mean": float(self.mean[i]) if valid else None,
                "std": float(np.sqrt(self.squares[i] / self.count[i])) if valid else None,
                "min": float(self.minimum[i]) if valid else None,
                "max": float(self.maximum[i]) if valid else None,
                "nan": int(self.nan[i]),
                "nodata": int(self.nodata[i]),
            }
        return rows

    def to_lists(self) -> dict[str, list[float]]:
        """All attributes as lists; Python's JSON keeps every float64 exactly."""
        return {name: value.tolist() for name, value in vars(self).items()}

    @classmethod
    def from_lists(cls, form: dict[str, list[float]]) -> "BandStatistics":
        return cls(**{name: np.array(value) for name, value in form.items()})


# Pixels that are measured at a time, as float64 within a core's cache; fewer would be outweighed by the calls it takes.
_BLOCK = 1 << 16


class Measuring:
    """Statistics of many images (C, H, W) of one sensor, of which small ones are measured together."""

    def __init__(self, sensor: Sensor):
        self._nodata, self._merged = sensor.nodata, BandStatistics.empty(len(sensor.bands))
        self._images: list[np.ndarray] = []
        self._pixels = 0

    def add(self, image: np.ndarray) -> None:
        self._images.append(image.reshape(len(image), 1, -1))
        self._pixels += self._images[-1].shape[-1]
        if self._pixels >= _BLOCK:
            self._measure()

    def result(self) -> BandStatistics:
        if self._images:
            self._measure()
        return self._merged

    def _measure(self) -> None:
        images = self._images[0] if len(self._images) == 1 else np.concatenate(self._images, axis=2)
        self._merged = self._merged.merge(BandStatistics.measure(images, self._nodata))
        self._images, self._pixels = [], 0


def _whole_numbers(band: np.ndarray, nodata: float | None) -> tuple[float, ...]:
    """The attributes of `BandStatistics` for integers of 8 or 16 bits (pixels,): exact, each rounded once."""
    count, low, high, empty = len(band), int(band.min()), int(band.max()), 0
    total = squares = 0
    for start in range(0, len(band), _BLOCK):
        wide = band[start : start + _BLOCK].astype(np.float64)  # which holds sums of so many of them exactly
        total += int(wide.sum())
        squares += int(wide @ wide)
    # Python's integers have no largest one; NumPy counts in its own.
    if nodata is not None and low <= nodata <= high and (empty := int(np.count_nonzero(band == nodata))):
        count, total, squares = count - empty, total - empty * int(nodata), squares - empty * int(nodata) ** 2
        low, high = _range(band[band != nodata])
    mean, deviations = (total / count, (count * squares - total**2) / count) if count else (0, 0)
    return count, mean, deviations, low, high, 0, empty


def _numbers(band: np.ndarray, nodata: float | None) -> tuple[float, ...]:
    """The same for any type."""
    wide, nan, empty = band.astype(np.float64), 0, 0
    low, high = band.min(), band.max()
    if np.isnan(low) or (nodata is not None and low <= nodata <= high):
        is_nan, is_empty = np.isnan(wide), wide == nodata
        nan, empty = np.count_nonzero(is_nan), np.count_nonzero(is_empty)
        wide = wide[~(is_nan | is_empty)]
        low, high = _range(wide)
    mean = wide.sum() / max(len(wide), 1)
    wide -= mean
    return len(wide), mean, np.einsum("p,p->", wide, wide), low, high, nan, empty


def _range(values: np.ndarray) -> tuple[float, float]:
    return (values.min(), values.max()) if len(values) else (np.inf, -np.inf)


# Published sets: sensor -> band -> (mean, standard deviation). "clip" limits values first, as the authors did.
PUBLISHED = {
    # SEN12MS reference training; S1 is clipped to [-25, 0] dB before.
    "sen12ms": {
        "clip": {"s1": (-25.0, 0.0)},
        "s2": {
            "B02": (1226.4215, 741.6254),
            "B03": (1137.3799, 740.883),
            "B04": (1139.6792, 960.1045),
            "B05": (1350.9973, 946.76056),
            "B06": (1932.9058, 985.52747),
            "B07": (2211.1584, 1082.4341),
            "B08": (2154.9846, 1057.7628),
            "B8A": (2409.1128, 1136.1942),
            "B11": (2001.8622, 1132.7898),
            "B12": (1356.0801, 991.48016),
        },
        "s1": {"VV": (-11.76858, 4.525339), "VH": (-18.294598, 4.3586307)},
    },
    "bigearthnet": {
        "clip": {},
        "s2": {
            "B01": (340.77, 554.81),
            "B02": (429.94, 572.42),
            "B03": (614.22, 582.88),
            "B04": (590.24, 675.89),
            "B05": (950.68, 729.90),
            "B06": (1792.46, 1096.01),
            "B07": (2075.47, 1273.45),
            "B08": (2218.95, 1365.46),
            "B8A": (2266.46, 1356.14),
            "B09": (2246.06, 1302.33),
            "B11": (1594.43, 1079.19),
            "B12": (1009.33, 818.87),
        },
        "s1": {"VV": (-12.6200, 5.1159), "VH": (-19.2904, 5.4644)},
    },
}
