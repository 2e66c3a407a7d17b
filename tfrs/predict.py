"""Class probabilities of one patch from an exported model; needs the SavedModel and its card only."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfrs import geotiff, registry
from tfrs.errors import UserError
from tfrs.export import CARD
from tfrs.sensors import Sensor


def read_card(export: Path) -> dict:
    """The card of an exported model.

    Raises:
        UserError: The folder is not an export.
    """
    try:
        return json.loads((export / CARD).read_text())
    except OSError as error:
        raise UserError(f"{export}: no {CARD} there; give the export folder of a run with --export") from error


def predict(export: Path, paths: Mapping[str, str], layout: str = "") -> dict[str, float]:
    """Probability of each class for one patch.

    Args:
        export: Folder of the SavedModel and its card.
        paths: Raster file of each sensor.
        layout: Data set whose files have the band order of these; needed where a file carries no band names.

    Raises:
        UserError: A sensor or band is missing, or the pixels are not of the kind or size that the model was made for.
    """
    card = read_card(export)
    if paths.keys() != card["inputs"].keys():
        raise UserError(f"the model takes {', '.join(card['inputs'])}; --scene gives {', '.join(paths) or 'nothing'}")
    images = {name: _read(name, paths[name], card, layout) for name in paths}
    if len({image.shape[1:] for image in images.values()}) > 1:
        raise UserError(f"the rasters differ in size: {', '.join(f'{n} {i.shape[1:]}' for n, i in images.items())}")
    serve = tf.saved_model.load(str(export)).signatures["serving_default"]
    (probabilities,) = serve(**{name: tf.constant(image[None]) for name, image in images.items()})["probabilities"].numpy()
    return {entry["name"]: float(p) for entry, p in zip(card["classes"], probabilities, strict=True)}


def _read(name: str, path: str, card: dict, layout: str) -> np.ndarray:
    """The bands that the model takes, in its order."""
    raster, wanted = geotiff.read(path), card["inputs"][name]
    if raster.data.dtype != wanted["dtype"]:
        raise UserError(f"{path}: dtype is {raster.data.dtype}; the model takes {wanted['dtype']}, {wanted['unit']}")
    size = card["patch_size"]
    if raster.data.shape[1:] != (size, size):
        height, width = raster.data.shape[1:]
        raise UserError(f"{path}: {height}x{width} pixels; this model classifies patches of {size}x{size}")
    bands = raster.descriptions if all(raster.descriptions) else _bands(name, layout, path)
    if len(bands) != len(raster.data):
        raise UserError(f"{path}: {len(raster.data)} bands, the files of {layout} have {len(bands)}")
    return raster.data[list(Sensor(name, bands, wanted["dtype"], wanted["unit"]).index(wanted["bands"]))]


def _bands(name: str, layout: str, path: str) -> tuple[str, ...]:
    if not layout:
        raise UserError(f"{path} carries no band names, and data sets order their bands differently; give --layout DATASET")
    sensors = {sensor.name: sensor for sensor in registry.dataset(layout)().sensors}
    if name not in sensors:
        raise UserError(f"data set {layout!r} has no sensor {name!r}; it has {', '.join(sensors)}")
    return sensors[name].bands
