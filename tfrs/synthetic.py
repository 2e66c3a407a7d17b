"""Simulated patches in the official layout of each data set: what real files look like, in any number, for any seed.

Patch i of a seed is the same however many are written. The pixels come from `tfrs.landscape`.
"""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrs import landscape
from tfrs.datasets import eurosat as eurosat_layout
from tfrs.datasets.sen12ms import SEASONS, SIZE, paths, split_of
from tfrs.geotiff import Raster, write
from tfrs.labels import EUROSAT
from tfrs.landscape import Cover
from tfrs.records import SPLITS
from tfrs.sensors import sentinel2


@dataclass(frozen=True)
class LandCover:
    """One IGBP class: its share of the land, its codes of LCCS land cover, land use and surface hydrology, and its surfaces."""

    share: float
    lccs: tuple[int, int, int]
    cover: Cover


# IGBP number -> class. As Schmitt & Wu 2021 found in SEN12MS, savanna, croplands and grassland are frequent, wetlands,
# barren and water rare, and snow does not occur. LCCS codes are those of MODIS MCD12Q1.
IGBP_COVERS = {
    1: LandCover(0.03, (11, 10, 10), Cover("stands", {"conifer": 0.92, "grass": 0.08})),
    4: LandCover(0.04, (14, 10, 10), Cover("stands", {"broadleaf": 0.92, "grass": 0.08})),
    5: LandCover(0.03, (15, 10, 10), Cover("stands", {"broadleaf": 0.5, "conifer": 0.5})),
    7: LandCover(0.10, (43, 40, 40), Cover("grain", {"shrub": 0.35, "dry grass": 0.65})),
    8: LandCover(0.08, (21, 20, 20), Cover("grain", {"trees": 0.45, "dry grass": 0.55})),
    9: LandCover(0.17, (22, 20, 20), Cover("grain", {"trees": 0.3, "dry grass": 0.7})),
    10: LandCover(0.22, (31, 30, 30), Cover("stands", {"grass": 0.8, "dry grass": 0.2})),
    11: LandCover(0.02, (31, 30, 50), Cover("stands", {"reed": 0.85, "water": 0.15})),
    12: LandCover(0.17, (31, 36, 30), Cover("fields", {"crop": 0.35, "cereal": 0.35, "ripe crop": 0.15, "soil": 0.15})),
    13: LandCover(0.05, (1, 9, 1), Cover("lots", {"roof": 0.4, "rubble": 0.25, "trees": 0.33, "asphalt": 0.02})),
    14: LandCover(0.06, (31, 35, 30), Cover("fields", {"cereal": 0.4, "broadleaf": 0.3, "grass": 0.3})),
    16: LandCover(0.015, (1, 1, 1), Cover("stands", {"rock": 0.8, "soil": 0.2})),
    17: LandCover(0.015, (3, 3, 3), Cover("stands", {"water": 0.8, "turbid water": 0.2})),
}
# IGBP number -> the four bands of a land cover file.
_LAND_COVER = np.zeros((4, 18), np.uint16)
_LAND_COVER[:, list(IGBP_COVERS)] = np.array([(number, *land.lccs) for number, land in IGBP_COVERS.items()]).T

# Class -> what covers a patch. Highways and rivers cross two of the others.
EUROSAT_COVERS = {
    "AnnualCrop": Cover("fields", {"crop": 0.25, "ripe crop": 0.3, "soil": 0.45}),
    "Forest": Cover("stands", {"conifer": 0.5, "broadleaf": 0.5}),
    "HerbaceousVegetation": Cover("stands", {"dry grass": 0.55, "shrub": 0.4, "soil": 0.05}),
    "Industrial": Cover("yards", {"hall": 0.35, "roof": 0.2, "asphalt": 0.3, "grass": 0.15}),
    "Pasture": Cover("fields", {"grass": 0.85, "dry grass": 0.1, "trees": 0.05}),
    "PermanentCrop": Cover("orchards", {"trees": 0.5, "soil": 0.3, "ripe crop": 0.2}),
    "Residential": Cover("lots", {"roof": 0.55, "trees": 0.43, "asphalt": 0.02}),
    "SeaLake": Cover("stands", {"water": 0.8, "turbid water": 0.2}),
}
_CROSSED = ("AnnualCrop", "HerbaceousVegetation", "Pasture")
# Class -> surface of the line, range of its width and amplitude of its windings, in pixels.
EUROSAT_LINES = {"Highway": ("asphalt", (2.5, 4.5), 2), "River": ("water", (8, 18), 5)}

# MODIS pixels are 500 m wide.
MODIS_PIXEL = 50
# So many neighbouring patches, from west to east, are one landscape; the blocks of a scene lie apart.
BLOCK = 2


def sen12ms(root: Path, n: int, seed: int) -> None:
    """Write `n` SEN12MS triplets below `root`: of every five, three are train, one val and one test."""
    counts = np.bincount(np.resize((0, 1, 2, 0, 0), n), minlength=3)
    for split, count in zip(SPLITS, counts, strict=True):
        for turn in range(-(-count // BLOCK)):
            _write_block(Path(root), split, turn, min(BLOCK, count - BLOCK * turn), seed)


@functools.cache
def _scenes(split: str) -> list[tuple[str, int]]:
    """Season and number of the scenes of a split, seasons mixed."""
    scenes = [(season, scene) for season in SEASONS for scene in range(1, 150) if split_of(season, scene) == split]
    return [scenes[i] for i in np.random.default_rng(0).permutation(len(scenes))]


def _write_block(root: Path, split: str, turn: int, count: int, seed: int) -> None:
    """Write the first `count` patches of the block whose turn it is; its scene's next block comes after all other scenes'."""
    scenes = _scenes(split)
    block, at = divmod(turn, len(scenes))
    season, scene = scenes[at]
    # Counted from 1: NumPy seeds [a] and [a, 0] alike.
    of_scene, rng = (np.random.default_rng([seed, SPLITS.index(split), at, part]) for part in (0, block + 1))
    seen = landscape.acquire(of_scene, season.partition("_")[2])
    crs, west, north = _place(of_scene)
    where = _land(rng, turn)
    ground = landscape.compose(rng, where, {number: land.cover for number, land in IGBP_COVERS.items()})
    images = {
        "s2": landscape.sentinel2(rng, ground, seen),
        "s1": landscape.sentinel1(rng, ground, seen),
        "lc": _LAND_COVER[:, _modis(rng, where)],
    }
    for column in range(count):
        pixels = np.s_[:, :, column * SIZE : (column + 1) * SIZE]
        transform = (10.0, 0.0, west + 10 * SIZE * column, 0.0, -10.0, north - 10 * SIZE * 2 * block)
        for part, path in paths(root, f"{season}_s2_{scene}_p{block * BLOCK + column + 1}").items():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write(path, Raster(images[part][pixels], crs, transform))


def _land(rng: np.random.Generator, turn: int) -> np.ndarray:
    """IGBP map of a block: the class whose turn it is, however rare, and two others by their share."""
    numbers = list(IGBP_COVERS)
    # Steps of 5 through the 13 classes: all have had their turn after 13 blocks, and like ones do not follow each other.
    guest = numbers[5 * turn % len(numbers)]
    others = rng.choice(numbers, 2, replace=False, p=[land.share for land in IGBP_COVERS.values()])
    return landscape.zones(rng, (SIZE, BLOCK * SIZE), sorted({guest, *others.tolist()}), 80)


def _modis(rng: np.random.Generator, where: np.ndarray) -> np.ndarray:
    """An IGBP map as MODIS sees it: the most frequent class of each of its pixels."""
    rows, columns = ((np.arange(size) + rng.integers(MODIS_PIXEL)) // MODIS_PIXEL for size in where.shape)
    pixel = rows[:, None] * (columns[-1] + 1) + columns
    counts = np.bincount((pixel * 18 + where).ravel(), minlength=(pixel[-1, -1] + 1) * 18)
    return counts.reshape(-1, 18).argmax(1)[pixel]


def _place(rng: np.random.Generator) -> tuple[str, float, float]:
    """A UTM zone, and the easting and northing of a corner in it."""
    crs = f"EPSG:{rng.choice((326, 327))}{rng.integers(1, 61):02}"
    return crs, float(rng.integers(30, 60) * 10_000), float(rng.integers(200, 800) * 10_000)


def eurosat(root: Path, n: int, seed: int) -> None:
    """Write `n` patches of the multispectral edition of EuroSAT below `root`, the ten classes in turn."""
    positions = list(sentinel2().index(eurosat_layout.FILE_BANDS))
    for key, image, rng in _eurosat(n, seed):
        crs, west, north = _place(rng)
        size = rng.uniform(9.97, 10.006)
        path = _eurosat_path(root, "EuroSAT_MS", key, "tif")
        write(path, Raster(image[positions], crs, (size, 0.0, west, 0.0, -size, north)))


def eurosat_rgb(root: Path, n: int, seed: int) -> None:
    """Write the same patches as `eurosat`, as the RGB edition has them: digital numbers 0..2750 stretched to 0..255, JPEG."""
    positions = list(sentinel2().index(("B04", "B03", "B02")))
    for key, image, _ in _eurosat(n, seed):
        shown = np.clip(image[positions] * (255 / 2750), 0, 255).astype(np.uint8)
        write(_eurosat_path(root, "2750", key, "jpg"), Raster(shown), driver="JPEG")


def _eurosat(n: int, seed: int) -> Iterator[tuple[str, np.ndarray, np.random.Generator]]:
    """Key, image (13, 64, 64) in ESA's band order and generator of each patch."""
    for i in range(n):
        number, class_id = divmod(i, len(EUROSAT.classes))
        name, rng = EUROSAT.classes[class_id], np.random.default_rng([seed, i])
        shape = (eurosat_layout.SIZE,) * 2
        if name in EUROSAT_LINES:
            line, width, bend = EUROSAT_LINES[name]
            crossed = rng.choice(len(_CROSSED), 2, replace=False)
            covers = {key: EUROSAT_COVERS[_CROSSED[key]] for key in crossed}
            ground = landscape.compose(rng, landscape.zones(rng, shape, crossed, 16), covers)
            ground = landscape.lay(rng, ground, line, rng.uniform(*width), bend)
        else:
            ground = landscape.surface(rng, EUROSAT_COVERS[name], shape)
        seen = landscape.acquire(rng, rng.choice(list(landscape.VIGOUR)))
        yield f"{name}_{number + 1}", landscape.sentinel2(rng, ground, seen), rng


def _eurosat_path(root: Path, top: str, key: str, suffix: str) -> Path:
    path = Path(root, top, key.partition("_")[0], f"{key}.{suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
