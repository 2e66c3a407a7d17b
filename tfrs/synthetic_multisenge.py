"""Simulated MultiSenGE patches in the official layout: several days of Sentinel-2 and Sentinel-1, a map, a JSON file."""

import itertools
import json
from pathlib import Path

import numpy as np

from tfrs import geotiff, landscape, tiles
from tfrs.datasets.multisenge import FILE_BANDS, SIZE
from tfrs.datasets.multisenge_names import Patch
from tfrs.datasets.multisenge_splits import corner
from tfrs.errors import UserError
from tfrs.geotiff import Raster, write
from tfrs.labels import MULTISENGE
from tfrs.landscape import Cover
from tfrs.sensors import sentinel2

# Class number -> its share of the land and what covers it. Shares follow the frequencies of the real patch labels.
COVERS = {
    1: (0.03, Cover("lots", {"roof": 0.6, "rubble": 0.2, "trees": 0.15, "asphalt": 0.05})),
    2: (0.12, Cover("lots", {"roof": 0.3, "trees": 0.4, "grass": 0.27, "asphalt": 0.03})),
    3: (0.05, Cover("yards", {"hall": 0.4, "roof": 0.2, "asphalt": 0.3, "grass": 0.1})),
    4: (0.03, Cover("stands", {"grass": 0.75, "trees": 0.25})),
    6: (0.22, Cover("fields", {"crop": 0.3, "ripe crop": 0.3, "soil": 0.4})),
    7: (0.03, Cover("orchards", {"shrub": 0.5, "soil": 0.5})),
    8: (0.03, Cover("orchards", {"trees": 0.5, "grass": 0.5})),
    9: (0.20, Cover("fields", {"grass": 0.85, "dry grass": 0.15})),
    10: (0.02, Cover("grain", {"trees": 0.5, "shrub": 0.5})),
    11: (0.20, Cover("stands", {"broadleaf": 0.6, "conifer": 0.4})),
    12: (0.01, Cover("stands", {"rock": 0.6, "soil": 0.4})),
    13: (0.03, Cover("stands", {"reed": 0.85, "water": 0.15})),
    14: (0.03, Cover("stands", {"water": 0.9, "turbid water": 0.1})),
}
NETWORK = 5  # crosses every other patch as a line
# First of four possible days, five days apart, of each image of a patch, and the season.
STARTS = {"2020-04-20": "spring", "2020-07-25": "summer", "2020-09-12": "fall"}
# Three of four patches lie in the tile of Metz, in random order within a window around the city and then beyond it.
TILES = ("31UGQ", "31UGQ", "31UGQ", "32ULU")
WINDOW = (range(2, 22), range(11, 31))  # columns and rows, counted in patches
GRID = 38


def multisenge(root: Path, n: int, seed: int) -> None:
    """Write `n` patches with two or three days of Sentinel-2 each; patch i of a seed is the same however many are written.

    Raises:
        UserError: There are more patches than places for them.
    """
    cells = [np.random.default_rng(0).permutation(cells) for cells in _cells()]
    places = np.concatenate(cells)
    if n > len(places):
        raise UserError(f"--synthesize={n}: MultiSenGE is simulated for at most {len(places)} patches")
    for part in ("labels", "ground_reference", "s2", "s1"):
        (Path(root) / part).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        turn, at = divmod(i, len(TILES))
        column, row = places[turn * TILES.count(TILES[at]) + TILES[:at].count(TILES[at])]
        _write_patch(Path(root), TILES[at], int(column), int(row), i, np.random.default_rng([seed, i]))


def _cells() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Columns and rows of the patches of a tile: those in the window, and all others."""
    window = set(itertools.product(*WINDOW))
    return sorted(window), sorted(set(itertools.product(range(GRID), repeat=2)) - window)


def _write_patch(root: Path, tile: str, column: int, row: int, i: int, rng: np.random.Generator) -> None:
    reference, ground = _land(rng, i)
    seasons = list(STARTS.items())[: 2 + i % 2]
    seen = {np.datetime64(start) + 5 * int(rng.integers(4)): season for start, season in seasons}
    s2 = np.array(list(seen))
    s1 = np.unique([*(s2 + rng.integers(-2, 3, len(s2))), s2[0] + 6])
    labels = np.unique(reference) - 1
    patch = Patch(tile, column * (SIZE + 1), row * (SIZE + 1), s2, s1, labels, tiles.crs(tile))
    west, north = corner(f"{tile}_{patch.x}_{patch.y}")
    place = patch.crs, (10.0, 0.0, float(west), 0.0, -10.0, float(north))

    write(patch.ground_reference(root), Raster(reference[None].astype(np.uint8), *place))
    bands, dtype = list(sentinel2().index(FILE_BANDS)), ("uint16", "int16")[i % 2]  # the real files have either
    for day, season in seen.items():
        image = landscape.sentinel2(rng, ground, landscape.acquire(rng, season))
        write(patch.path(root, "s2", day), Raster(image[bands].astype(dtype), *place))
    for day in s1:
        image = landscape.sentinel1(rng, ground, landscape.acquire(rng, "summer"))
        write(patch.path(root, "s1", day), Raster(image, *place))
    content = {
        # Unsorted, as in the real files.
        **{f"corresponding_{s}": _names(patch, s, rng.permutation(days)) for s, days in (("s2", s2), ("s1", s1))},
        "projection": geotiff.wkt(patch.crs),
        "labels": ";".join(str(MULTISENGE.numbers[label]) for label in labels),
    }
    (root / "labels" / f"{tile}_{patch.x}_{patch.y}.json").write_text(json.dumps(content))


def _names(patch: Patch, sensor: str, days: np.ndarray) -> str:
    return ";".join(patch.path(Path(), sensor, day).name for day in days)


def _land(rng: np.random.Generator, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers and surface ids (256, 256): the class whose turn it is, however rare, two others, perhaps a road."""
    numbers = list(COVERS)
    # Steps of 5 through 13 classes: each has its turn, and like ones do not follow each other.
    guest = numbers[5 * i % len(numbers)]
    others = rng.choice(numbers, 2, replace=False, p=[share for share, _ in COVERS.values()])
    reference = landscape.zones(rng, (SIZE, SIZE), sorted({guest, *others.tolist()}), 60)
    ground = landscape.compose(rng, reference, {number: cover for number, (_, cover) in COVERS.items()})
    if i % 2:
        crossed = landscape.lay(rng, ground, "asphalt", rng.uniform(3, 7), 4)
        reference, ground = np.where(crossed != ground, NETWORK, reference), crossed
    return reference, ground
