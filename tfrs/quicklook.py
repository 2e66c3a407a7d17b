"""A picture of a scene and its map, from pixels picked while the map is made: nothing is read twice."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfrs import areas
from tfrs.geotiff import Grid
from tfrs.labels import IGNORE, Scheme
from tfrs.scene_windows import Rows
from tfrs.sensors import Sensor
from tfrs.storage import beside, replacing

SIDE = 900  # pixels of each picture at most


@dataclass(frozen=True)
class Samples:
    """What is picked so far.

    Attributes:
        step: Pixels of the map from one picked to the next.
        fine: The same of the scene.
        pixel: Metres of a pixel of the map; None where it has no place.
        legend: The classes.
        sensor: The sensor shown, and the positions of its bands.
        ids: Rows of class ids, `IGNORE` where there are no data.
        scene: Rows of the scene (bands, rows, columns).
    """

    step: int
    fine: int
    pixel: float | None
    legend: Scheme
    sensor: str
    bands: tuple[int, ...]
    ids: list[np.ndarray] = field(default_factory=list)
    scene: list[np.ndarray] = field(default_factory=list)


def empty(grid: Grid, card: Mapping, cell: int) -> Samples:
    """
    Args:
        cell: Pixels of the scene per pixel of the map.
    """
    name, entry = next(iter(card["inputs"].items()))
    sensor = Sensor(name, tuple(entry["bands"]), entry["dtype"], entry["unit"])
    rows = [(row["name"], row["number"], row["color"].removeprefix("#")) for row in card["classes"]]
    legend = Scheme(card["scheme"], *map(tuple, zip(*rows, strict=True)))
    square = areas.pixel_areas(grid)
    pixel = None if square is None else float(np.sqrt(square[len(square) // 2]))
    side = max(grid.height, grid.width)
    return Samples(-(-side // SIDE), -(-side * cell // SIDE), pixel, legend, name, sensor.index(sensor.display()))


def sample(samples: Samples, part: Rows, ids: np.ndarray) -> None:
    """Pick from rows of a map.

    Args:
        ids: (rows, W), 0: no data, else class id + 1.
    """
    picked = ids[-part.first % samples.step :: samples.step, :: samples.step]
    samples.ids.append(np.where(picked == 0, IGNORE, picked - 1).astype(np.uint8))
    image = part.images[samples.sensor]
    cell, fine = image.shape[1] // len(ids), samples.fine
    rows, columns = np.arange(-part.first * cell % fine, image.shape[1], fine), np.arange(0, image.shape[2], fine)
    shown = image[np.ix_(samples.bands, rows, columns)]
    samples.scene.append(np.where(part.known[np.ix_(rows // cell, columns // cell)], shown, np.nan))


def write(path: Path, samples: Samples, shares: np.ndarray) -> None:
    """Write `<map>_quicklook.png`: scene and map side by side, legend with the share of each class (classes,), scale bar."""
    from tfrs import plots

    with replacing(beside(path, "quicklook", ".png")) as temporary:
        image = np.concatenate(samples.scene, axis=1)
        image = plots.displayable(image[None] if np.isfinite(image).any() else np.zeros_like(image[None]))[0]
        ids = np.concatenate(samples.ids)
        figure = plots.scene(image, ids, samples.legend, shares, path.stem, samples.pixel and samples.pixel * samples.step)
        plots.save(figure, temporary)
