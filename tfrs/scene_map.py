"""A map in files: classes, layers of probability, areas, and a picture, written as parts of it are finished."""

import contextlib
import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrs import areas, geotiff, legend, quicklook
from tfrs.errors import UserError
from tfrs.geotiff import Grid
from tfrs.locks import alone
from tfrs.scene_windows import Part
from tfrs.storage import beside, replacing_together

DRIVERS = {".tif": "COG", ".tiff": "COG", ".png": "PNG"}
LAYERS = {"probabilities": "--probabilities", "uncertainty": "--uncertainty", "occlusion": "--occlude"}  # -> flag
STEP, NO_VALUE = 1e-4, -32768  # of int16 layers: values are multiples of STEP


@dataclass(frozen=True)
class Extras:
    """What is written beside the map.

    Attributes:
        probabilities: `<map>_probabilities.tif`, a band per class.
        uncertainty: `<map>_uncertainty.tif`, the entropy of the probabilities as a share of the highest.
        occluded: Names of what was occluded: `<map>_occlusion.tif`, a band each, and `<map>_occlusion.csv`, means per class.
    """

    probabilities: bool = False
    uncertainty: bool = False
    occluded: tuple[str, ...] = ()


def check_output(path: Path, classes: Sequence[dict], inputs: Iterable[str], extras: Extras) -> None:
    """See that a map can be written, before it is made.

    Args:
        classes: Entries of a card.
        inputs: Files that the map must not replace.
        extras: What goes beside it: a layer of an earlier map that is not among them would not fit the new one.

    Raises:
        UserError: It cannot.
    """
    suffix = path.suffix.lower()
    if suffix not in DRIVERS:
        raise UserError(f"{path}: a map is written as {', '.join(DRIVERS)}")
    if suffix == ".png" and max(entry["number"] for entry in classes) > 255:
        raise UserError(f"{path}: the classes' numbers go beyond the 255 of a PNG with colours; write a .tif")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it, or give another --output")
    if path.exists() and any(Path(other).exists() and path.samefile(other) for other in inputs):
        raise UserError(f"{path} is the image itself; give another --output")
    for name, flag in LAYERS.items():
        old = sorted(path.parent.glob(f"{glob.escape(path.stem)}_{name}.*"))
        if path.exists() and old and name not in _layers(classes, extras):
            there = ", ".join(map(str, old))
            raise UserError(f"{there}: of the earlier map, which is to be replaced; delete that, or give {flag} too")


def write_map(path: Path, parts: Iterable[Part], scene: Grid, cell: int, card: Mapping, extras: Extras) -> np.ndarray:
    """Write a map of the most probable classes' numbers with their colours as palette, and what goes beside it; 0: no data.

    A GeoTIFF is a Cloud Optimized one. Beside it: the legend (`legend.write`), `<map>_areas.csv`, `<map>_quicklook.png`. The
    files appear when all of them are whole, the map itself last.

    Args:
        path: `.tif` or `.png`.
        parts: All of the map: probabilities of the classes, then a channel for each of `extras.occluded`.
        scene: Where the scene lies.
        cell: Pixels of the scene per pixel of the map.

    Returns:
        Share (classes,) of each class in the pixels with data.

    Raises:
        UserError: Another process is writing the same map, or a file cannot be written.
    """
    classes, grid = card["classes"], scene.cells(cell)
    numbers = np.array([0, *(entry["number"] for entry in classes)])
    colors = {entry["number"]: bytes.fromhex(entry["color"].removeprefix("#")) for entry in classes}
    tables = areas.empty(scene, cell, len(classes), extras.occluded)
    picture = quicklook.empty(scene, card, cell)
    with alone(path), replacing_together() as place, contextlib.ExitStack() as stack:
        kind = np.min_scalar_type(numbers.max())
        put_map = stack.enter_context(_layer(path, place, grid, kind, nodata=0, colors=colors, overview_resampling="mode"))
        layers = {
            name: stack.enter_context(_values(path, place, name, grid, bands))
            for name, bands in _layers(classes, extras).items()
        }
        for part in parts:
            probabilities, drops = part.values[: len(classes)], part.values[len(classes) :]
            ids = np.where(part.known, probabilities.argmax(axis=0) + 1, 0)
            put_map(part.top, part.left, numbers[ids].astype(kind)[None])
            found = {"probabilities": probabilities, "occlusion": drops}
            if extras.uncertainty:
                found["uncertainty"] = entropy(probabilities, card["task"])[None]
            for name, put in layers.items():
                put(part.top, part.left, _steps(found[name], part.known))
            areas.count(tables, part.top, part.left, ids, drops)
            quicklook.sample(picture, part, ids)
        shares = tables.pixels / max(tables.pixels.sum(), 1)
        areas.write(path, place, tables, classes)
        quicklook.write(place(beside(path, "quicklook", ".png")), path.stem, picture, shares)
        legend.write(path, place, classes)
    return shares


def entropy(probabilities: np.ndarray, task: str) -> np.ndarray:
    """Uncertainty (H, W) of probabilities (classes, H, W), 0 to 1: Shannon's entropy as a share of the highest.

    Of multi-labels, the mean over the classes of the entropy of yes and no.
    """
    if task == "multi_label":
        return sum(_surprise(p) + _surprise(1 - p) for p in probabilities) / (len(probabilities) * np.log(2))
    return sum(_surprise(p) for p in probabilities) / np.log(max(len(probabilities), 2))


def _surprise(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-12, 1)
    return -p * np.log(p)


def _steps(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values (bands, H, W) as int16 multiples of `STEP`, band by band to save memory."""
    return np.stack([np.where(known, np.rint(band / STEP), NO_VALUE).astype(np.int16) for band in values])


def _layers(classes: Sequence[dict], extras: Extras) -> dict[str, tuple[str, ...]]:
    """Names of the bands of each layer wanted."""
    found = {}
    if extras.probabilities:
        found["probabilities"] = tuple(entry["name"] for entry in classes)
    if extras.uncertainty:
        found["uncertainty"] = ("entropy",)
    if extras.occluded:
        found["occlusion"] = extras.occluded
    return found


def _values(path: Path, place: Callable[[Path], Path], name: str, grid: Grid, bands: tuple[str, ...]):
    """A layer of values -1 to 1."""
    return _layer(
        beside(path, name, ".tif"),
        place,
        grid,
        np.int16,
        nodata=NO_VALUE,
        count=len(bands),
        descriptions=bands,
        scale=STEP,
        interleave="band",
        overview_resampling="average",
    )


@contextlib.contextmanager
def _layer(path: Path, place: Callable[[Path], Path], grid: Grid, dtype, *, overview_resampling: str, **options) -> Iterator:
    """Pixels go to an uncompressed file first, since overviews of a Cloud Optimized GeoTIFF come before its pixels."""
    driver = DRIVERS[path.suffix.lower()]
    form = {"compress": "deflate", "overview_resampling": overview_resampling, "num_threads": "all_cpus", "bigtiff": "if_safer"}
    plain = path.with_name(f"{path.name}.plain.tmp")
    target = place(path)
    try:
        with geotiff.rows(plain, grid, dtype, bigtiff="if_safer", **options) as put:
            yield put
        geotiff.copy(plain, target, driver=driver, **(form if driver == "COG" else {}))
    finally:
        plain.unlink(missing_ok=True)
