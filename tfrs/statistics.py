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
        values = image.reshape(len(image), -1).astype(np.float64)
        nan, empty = np.isnan(values), values == (np.nan if nodata is None else nodata)
        invalid = nan | empty
        lowest = highest = values
        if some_invalid := invalid.any():  # the rare case pays for its copies
            lowest, highest = np.where(invalid, np.inf, values), np.where(invalid, -np.inf, values)
            values[invalid] = 0
        count = (~invalid).sum(axis=1, dtype=np.float64)
        minimum, maximum = lowest.min(axis=1), highest.max(axis=1)
        mean = values.sum(axis=1) / np.maximum(count, 1)
        values -= mean[:, None]
        if some_invalid:
            values[invalid] = 0
        squares = np.einsum("bp,bp->b", values, values)
        return cls(count, mean, squares, minimum, maximum, *(mask.sum(axis=1, dtype=np.float64) for mask in (nan, empty)))

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
