"""Splits of MultiSenGE: by patch, with or without neighbours across, and a test area set apart."""

import numpy as np

from tfrs import geotiff, spatial, tiles
from tfrs.datasets.multisenge_names import position
from tfrs.errors import UserError

PITCH = 2570  # metres from patch to patch of 2560 m: one pixel is left out between two
SIDE = 2560
TEST_SHARE = 0.1  # of all patches, where no test area is given
VAL_SHARE = 0.2  # of what is not test (Wenger et al. 2022, section 4)
# Squares that touch have centres no farther apart than their diagonal; 1 % more for the scale of a foreign UTM zone.
REACH = 1.01 * PITCH * 2**0.5


def corner(name: str) -> tuple[int, int]:
    """Easting and northing in metres of the upper left corner of a patch, in its tile's UTM zone."""
    tile, x, y = position(name)
    west, north = tiles.origin(tile)
    return west + 10 * x, north - 10 * y


def assign(names: list[str], *, split: str, area: tuple[float, ...], seed: int) -> np.ndarray:
    """The split (N,) of every patch; an empty text for one left out because it is beside a patch of another split.

    Args:
        names: `<tile>_<x>_<y>`.
        split: `random` draws patches, `spatial` blocks of them, and leaves out the neighbours of test and val.
        area: minx, miny, maxx, maxy of the test split in longitude and latitude or UTM; a tenth of the patches where empty.
    """
    centers = _centers(names)
    rng = np.random.default_rng([seed, len(names)])

    def chosen(available, share):
        if split == "spatial":
            return spatial.draw_blocks(rng, available, share, centers)
        return spatial.draw(rng, available, share)

    def beside(mask):
        return spatial.near(centers, mask, REACH) if split == "spatial" else mask

    test = within(names, area) if area else chosen(np.ones(len(names), bool), TEST_SHARE)
    rest = ~test & ~beside(test)
    val = chosen(rest, VAL_SHARE)
    train = rest & ~val & ~beside(val)
    return np.select([test, val, train], ["test", "val", "train"], "")


def _centers(names: list[str]) -> np.ndarray:
    """Centres (N, 2) of the patches in metres, all in the UTM zone of the first."""
    corners = np.array([corner(name) for name in names], float)
    corners += SIDE / 2, -SIDE / 2
    zones = np.array([tiles.crs(position(name)[0]) for name in names])
    for zone in set(zones) - {zones[0]}:
        corners[zones == zone] = np.transpose(geotiff.project(*corners[zones == zone].T, zone, zones[0]))
    return corners


def within(names: list[str], area: tuple[float, ...]) -> np.ndarray:
    """Mask (N,) of the patches that an area touches.

    Args:
        area: minx, miny, maxx, maxy; longitude and latitude where no number exceeds 180, else UTM.

    Raises:
        UserError: The area touches no patch, or is in UTM while the patches lie in several zones.
    """
    zones = np.array([tiles.crs(position(name)[0]) for name in names])
    west, north = np.array([corner(name) for name in names], float).T
    x, y = np.array([west, west + SIDE, west, west + SIDE]), np.array([north, north, north - SIDE, north - SIDE])
    if max(map(abs, area)) <= 180:
        for zone in set(zones):
            inside = zones == zone
            lon, lat = geotiff.project(x[:, inside].ravel(), y[:, inside].ravel(), zone, "EPSG:4326")
            x[:, inside], y[:, inside] = lon.reshape(4, -1), lat.reshape(4, -1)
    elif len(set(zones)) > 1:
        raise UserError(f"test area {area} is in UTM, but the patches lie in {' and '.join(sorted(set(zones)))}; choose tiles")
    touched = (x.max(0) >= area[0]) & (x.min(0) <= area[2]) & (y.max(0) >= area[1]) & (y.min(0) <= area[3])
    if not touched.any():
        extent = ", ".join(f"{v:.6g}" for v in (x.min(), y.min(), x.max(), y.max()))
        raise UserError(f"test area {', '.join(f'{v:g}' for v in area)} touches no patch; the patches lie within {extent}")
    return touched
