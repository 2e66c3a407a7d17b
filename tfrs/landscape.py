"""Simulated landscapes: land cover as coherent random fields, and what Sentinel-2 and Sentinel-1 measure over it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Surface -> top-of-atmosphere reflectance x 10,000 in the order of S2_BANDS, and backscatter VV, VH in dB.
# Levels follow the spectra of L1C patches (EuroSAT, SEN12MS means); they are plausible, not measured.
# Some pairs are alike in the visible on purpose: conifer and broadleaf part in the near infrared, grass and crop in
# the red edge, conifer and reed in the short-wave infrared; trees and shrub, rubble and rock only in backscatter.
_SURFACES = {
    "conifer": ((1170, 880, 720, 470, 720, 1500, 1780, 1730, 1950, 620, 10, 1000, 480), (-10.5, -15.8)),
    "broadleaf": ((1180, 890, 750, 480, 850, 2300, 2900, 2900, 3150, 880, 10, 1600, 720), (-9.8, -15.0)),
    "trees": ((1230, 980, 900, 760, 1140, 1850, 2120, 2130, 2360, 720, 11, 2000, 1180), (-8.6, -13.2)),
    "shrub": ((1230, 980, 900, 770, 1150, 1840, 2100, 2110, 2340, 710, 11, 2030, 1210), (-13.0, -19.5)),
    "dry grass": ((1290, 1080, 1060, 1090, 1500, 1930, 2150, 2200, 2450, 760, 11, 2650, 1750), (-13.6, -20.6)),
    "grass": ((1230, 980, 950, 700, 1150, 2150, 2520, 2560, 2800, 850, 11, 2100, 1130), (-12.8, -19.4)),
    "crop": ((1220, 970, 940, 680, 1050, 2700, 3600, 3620, 3900, 950, 10, 1700, 830), (-10.8, -17.0)),
    "cereal": ((1230, 980, 950, 700, 1140, 2200, 2600, 2640, 2880, 850, 11, 2050, 1090), (-9.5, -15.5)),
    "ripe crop": ((1330, 1190, 1270, 1330, 1750, 2200, 2450, 2550, 2800, 820, 12, 2800, 1900), (-11.8, -18.6)),
    "soil": ((1340, 1190, 1210, 1480, 1680, 1850, 2000, 2030, 2250, 650, 12, 2850, 2250), (-12.6, -22.0)),
    "reed": ((1170, 880, 740, 490, 720, 1380, 1600, 1600, 1720, 480, 9, 820, 350), (-8.0, -15.5)),
    "water": ((1130, 870, 640, 380, 340, 280, 270, 240, 220, 120, 8, 90, 60), (-19.5, -27.5)),
    "turbid water": ((1200, 980, 880, 620, 560, 400, 370, 330, 290, 150, 8, 120, 80), (-18.5, -26.5)),
    "rock": ((1480, 1430, 1580, 1850, 2000, 2120, 2220, 2270, 2380, 850, 13, 2850, 2420), (-14.5, -23.0)),
    "rubble": ((1480, 1430, 1580, 1840, 1980, 2100, 2200, 2250, 2360, 840, 13, 2800, 2380), (-6.0, -12.5)),
    "roof": ((1430, 1320, 1340, 1450, 1560, 1720, 1820, 1880, 1980, 650, 12, 2050, 1800), (-1.0, -8.5)),
    "hall": ((1750, 1850, 1950, 2050, 2150, 2300, 2400, 2500, 2550, 800, 13, 2500, 2300), (0.5, -8.0)),
    "asphalt": ((1390, 1250, 1230, 1260, 1320, 1400, 1440, 1470, 1540, 520, 12, 1600, 1400), (-14.0, -21.5)),
}
_ID = {surface: i for i, surface in enumerate(_SURFACES)}
_REFLECTANCE = np.array([optical for optical, _ in _SURFACES.values()], np.float32).T
_BACKSCATTER = np.array([radar for _, radar in _SURFACES.values()], np.float32).T

# Surfaces whose spectrum moves towards dry grass out of season, and how green each season leaves them.
_SEASONAL = [_ID[surface] for surface in ("broadleaf", "grass", "crop", "cereal", "shrub", "trees", "reed")]
VIGOUR = {"spring": 0.9, "summer": 1.0, "fall": 0.8, "winter": 0.65}

# Per band of S2_BANDS: ground sampling in metres, light that haze scatters into the sensor, and the response to
# moister ground: more near infrared, less red and short-wave infrared.
_SAMPLING = np.array([60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20])
_HAZE = np.array([200, 190, 150, 110, 80, 60, 45, 40, 30, 30, 0, 5, 5], np.float32)
_MOISTURE = np.array([0, 0, 0, -0.6, -0.3, 0.4, 0.7, 0.7, 0.7, 0.4, 0, -0.7, -1], np.float32)

# Equivalent number of looks commonly given for Sentinel-1 IW GRD at high resolution.
LOOKS = 4.4


@dataclass(frozen=True)
class Cover:
    """A kind of land cover: surfaces by their share of the area, arranged in a pattern of `PATTERNS`."""

    pattern: str
    surfaces: Mapping[str, float]


@dataclass(frozen=True)
class Acquisition:
    """How a scene is seen.

    Attributes:
        illumination: Factor on reflectance.
        haze: Strength of scattered light, 0 for clear air.
        vigour: 1 for green vegetation, 0 for withered.
        wetness: Offset of backscatter in dB.
    """

    illumination: float = 1.0
    haze: float = 0.0
    vigour: float = 1.0
    wetness: float = 0.0


def acquire(rng: np.random.Generator, season: str) -> Acquisition:
    """Random conditions in a season of `VIGOUR`."""
    return Acquisition(
        illumination=float(np.exp(rng.normal(0, 0.1))),
        haze=float(rng.uniform(-0.8, 1.5)),
        vigour=float(np.clip(VIGOUR[season] + rng.normal(0, 0.05), 0, 1)),
        wetness=float(rng.normal(0, 0.5)),
    )


def fields(rng: np.random.Generator, count: int, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Independent smooth random fields (count, H, W), float32, of mean 0 and variance 1, periodic at the edges.

    Args:
        scale: Correlation length in pixels; the spectrum above it falls as a power law, so that outlines are ragged.
    """
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])
    amplitude = ((1 + (2 * np.pi * scale) ** 2 * (fx**2 + fy**2)) ** -1.25).astype(np.float32)
    amplitude *= np.sqrt(amplitude.size / (amplitude**2).sum())
    # One complex transform makes two real fields.
    noise = rng.standard_normal(((count + 1) // 2, *shape, 2), np.float32).view(np.complex64)[..., 0]
    smooth = np.fft.ifft2(noise * amplitude, norm="ortho")
    return np.concatenate([smooth.real, smooth.imag])[:count]


def zones(rng: np.random.Generator, shape: tuple[int, int], keys: Sequence[int], scale: float) -> np.ndarray:
    """Map (H, W) of coherent zones: at each pixel the one of `keys` whose random field is highest."""
    return np.array(keys)[fields(rng, len(keys), shape, scale).argmax(0)]


def surface(rng: np.random.Generator, cover: Cover, shape: tuple[int, int]) -> np.ndarray:
    """Map (H, W) of surface ids for one kind of cover."""
    ids = np.array([_ID[name] for name in cover.surfaces])
    limits = np.cumsum(list(cover.surfaces.values()))[:-1]
    return ids[np.searchsorted(limits, PATTERNS[cover.pattern](rng, shape), side="right")]


def compose(rng: np.random.Generator, where: np.ndarray, covers: Mapping[int, Cover]) -> np.ndarray:
    """Map (H, W) of surface ids for a map of zones whose keys name covers."""
    ground = np.empty(where.shape, np.intp)
    for key in np.unique(where):
        inside = where == key
        ground[inside] = surface(rng, covers[key], where.shape)[inside]
    return ground


def lay(rng: np.random.Generator, ground: np.ndarray, name: str, width: float, bend: float) -> np.ndarray:
    """A map of surface ids with a band of surface `name` laid across its middle, `width` pixels wide and winding by `bend`."""
    across, along = (axis - axis.mean() for axis in _turned(rng, ground.shape))
    course = rng.normal(0, 4) + bend * np.sin(along / rng.uniform(8, 16) + rng.uniform(0, 2 * np.pi))
    return np.where(np.abs(across - course) < width / 2, _ID[name], ground)


def sentinel2(rng: np.random.Generator, ground: np.ndarray, seen: Acquisition) -> np.ndarray:
    """Digital numbers (13, H, W), uint16, in the order of S2_BANDS, of a map of surface ids.

    The point spread mixes neighbouring surfaces; bands at 20 and 60 m are blurred more.
    """
    spectra = _REFLECTANCE.copy()
    withered = spectra[:, [_ID["dry grass"]]]
    spectra[:, _SEASONAL] = withered + seen.vigour * (spectra[:, _SEASONAL] - withered)
    texture, moisture = fields(rng, 1, ground.shape, 1.5)[0], fields(rng, 1, ground.shape, 20)[0]
    image = spectra.take(ground, axis=1)
    image *= 1 + 0.06 * texture + 0.08 * _MOISTURE[:, None, None] * moisture
    for metres, step in ((10, 1), (20, 2), (60, 4)):
        coarse = metres <= _SAMPLING
        image[coarse] = _blur(image[coarse], step)
    image = seen.illumination * image + seen.haze * _HAZE[:, None, None]
    # Photon noise: about 1 % of a signal of 1500, and one digital number in the cirrus band.
    image += 0.4 * np.sqrt(image) * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.rint(image), 1, 65535).astype(np.uint16)


def sentinel1(rng: np.random.Generator, ground: np.ndarray, seen: Acquisition) -> np.ndarray:
    """Backscatter VV, VH (2, H, W) in dB, float32, with speckle, of a map of surface ids."""
    power = 10 ** ((_BACKSCATTER + seen.wetness) / 10)
    power = _blur(power.take(ground, axis=1), 1) * rng.standard_gamma(LOOKS, (2, *ground.shape), np.float32) / LOOKS
    return (10 * np.log10(power)).astype(np.float32)


def _blur(image: np.ndarray, step: int) -> np.ndarray:
    """Weights 1 2 1 over pixels `step` apart, along rows and columns; beyond the edge stands the edge."""
    for axis in (1, 2):
        at = np.arange(image.shape[axis])
        before, after = (image.take(np.clip(at + shift, 0, at[-1]), axis) for shift in (-step, step))
        image = (before + 2 * image + after) / 4
    return image


def _turned(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (H, W) in pixels along two perpendicular axes of random direction."""
    y, x = np.indices(shape, np.float32)
    angle = rng.uniform(0, np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _patchy(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    # The logistic curve follows the normal distribution to within 0.01, and makes the values nearly uniform in 0..1.
    return 1 / (1 + np.exp(-1.702 * fields(rng, 1, shape, scale)[0]))


def _parcels(rng: np.random.Generator, shape: tuple[int, int], length: float, width: float) -> np.ndarray:
    """A value uniform in 0..1 per parcel: strips of random widths in a random direction, each cut into random lengths."""
    across, along = _turned(rng, shape)
    edges = np.cumsum(rng.uniform(0.4, 1.6, (2, 256)), 1)
    strip = np.searchsorted(edges[0], across / width % edges[0, -1])
    # Each strip starts elsewhere in the one sequence of lengths.
    parcel = np.searchsorted(edges[1], (along / length + rng.uniform(0, 256, 256)[strip]) % edges[1, -1])
    return rng.random((256, 256))[strip, parcel]


def _streets(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A value uniform in 0..1 on the lots, and 1, which is the last surface of a cover, on the streets around them."""
    across, along = _turned(rng, shape)
    block = rng.uniform(9, 14)
    street = (across % block < 2) | (along % (2 * block) < 2)
    return np.where(street, 1, _patchy(rng, shape, 1.0))


def _rows(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Parcels again, in which stripes two pixels wide alternate: rows of trees, and what grows between."""
    across, _ = _turned(rng, shape)
    return 0.75 * _parcels(rng, shape, 16, 10) + 0.25 * (across // 2 % 2)


# Pattern -> function (rng, shape) that gives a value in 0..1 per pixel, about uniform, cut by the shares of a cover.
PATTERNS = {
    "grain": lambda rng, shape: _patchy(rng, shape, 1.0),
    "stands": lambda rng, shape: _patchy(rng, shape, 10.0),
    "fields": lambda rng, shape: _parcels(rng, shape, 28, 14),
    "orchards": _rows,
    "lots": _streets,
    "yards": lambda rng, shape: _parcels(rng, shape, 9, 6),
}
