"""A picture of a scene and its map, from pixels picked while the map is made: nothing is read twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrs import areas
from tfrs.geotiff import Grid
from tfrs.labels import IGNORE, Scheme
from tfrs.scene_windows import Part
from tfrs.sensors import Sensor

SIDE = 600  # pixels of each picture at most; the figure has room for about 550


@dataclass(frozen=True)
class Samples:
    """What is picked so far, filled in place.

    Attributes:
        step: Pixels of the map from one picked to the next.
        fine: The same of the scene.
        pixel: Metres of a pixel of the map; None where it has no place.
        legend: The classes.
        sensor: The sensor shown, and the positions of its bands.
        ids: Class ids (rows, columns), `IGNORE` where there are no data.
        scene: The scene (bands, rows, columns), NaN where there are no data.
        size: Rows and columns of the scene itself. Cells of the map may reach beyond it, where parts have it mirrored.
    """

    step: int
    fine: int
    pixel: float | None
    legend: Scheme
    sensor: str
    bands: tuple[int, ...]
    ids: np.ndarray
    scene: np.ndarray
    size: tuple[int, int]


def empty(scene: Grid, card: Mapping, cell: int) -> Samples:
    """
    Args:
        cell: Pixels of the scene per pixel of the map.
    """
    name, entry = next(iter(card["inputs"].items()))
    sensor = Sensor(name, tuple(entry["bands"]), entry["dtype"], entry["unit"])
    rows = [(row["name"], row["number"], row["color"].removeprefix("#")) for row in card["classes"]]
    legend = Scheme(card["scheme"], *map(tuple, zip(*rows, strict=True)))
    grid = scene.cells(cell)
    square = areas.pixel_areas(grid)
    pixel = None if square is None else float(np.sqrt(square[len(square) // 2]))
    sides = grid.height, grid.width
    step, fine = -(-max(sides) // SIDE), -(-max(sides) * cell // SIDE)
    bands = sensor.index(sensor.display())
    ids = np.full([-(-pixels // step) for pixels in sides], IGNORE, np.uint8)
    image = np.full((len(bands), *(-(-pixels * cell // fine) for pixels in sides)), np.nan, np.float32)
    return Samples(step, fine, pixel, legend, name, bands, ids, image, (scene.height, scene.width))


def sample(samples: Samples, part: Part, ids: np.ndarray) -> None:
    """Pick from a part of a map.

    Args:
        ids: (rows, columns), 0: no data, else class id + 1.
    """
    rows, columns, place = _picked((part.top, part.left), ids.shape, samples.step)
    picked = ids[np.ix_(rows, columns)]
    samples.ids[place] = np.where(picked == 0, IGNORE, picked - 1)
    image = part.images[samples.sensor]
    cell = image.shape[1] // len(ids)
    rows, columns, place = _picked((part.top * cell, part.left * cell), image.shape[1:], samples.fine)
    shown = image[np.ix_(samples.bands, rows, columns)]
    known = part.known[np.ix_(rows // cell, columns // cell)]
    known[part.top * cell + rows >= samples.size[0]] = False
    known[:, part.left * cell + columns >= samples.size[1]] = False
    samples.scene[:, *place] = np.where(known, shown, np.nan)


def _picked(corner: tuple[int, int], size: tuple[int, int], step: int) -> tuple[np.ndarray, np.ndarray, tuple[slice, slice]]:
    """Rows and columns to pick from a part with that corner, and their place in the picture."""
    rows, columns = (np.arange(-begin % step, length, step) for begin, length in zip(corner, size, strict=True))
    top, left = (-(-begin // step) for begin in corner)
    return rows, columns, (slice(top, top + len(rows)), slice(left, left + len(columns)))


def write(path: Path, title: str, samples: Samples, shares: np.ndarray) -> None:
    """Write a PNG: scene and map side by side, legend with the share of each class (classes,), scale bar."""
    from tfrs import plots

    image = samples.scene[None]
    image = plots.displayable(image if np.isfinite(image).any() else np.zeros_like(image))[0]
    figure = plots.scene(image, samples.ids, samples.legend, shares, title, samples.pixel and samples.pixel * samples.step)
    plots.save(figure, path)
