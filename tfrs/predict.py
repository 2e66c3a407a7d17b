"""What an exported model says of one patch; needs the SavedModel and its card only."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfrs import geotiff, registry
from tfrs.errors import UserError
from tfrs.export import CARD
from tfrs.geotiff import Raster
from tfrs.sensors import Sensor

DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG"}


def read_card(export: Path) -> dict:
    """The card of an exported model.

    Raises:
        UserError: The folder is not an export.
    """
    try:
        return json.loads((export / CARD).read_text())
    except OSError as error:
        raise UserError(f"{export}: no {CARD} there; give the export folder of a run with --export") from error


def predict(export: Path, paths: Mapping[str, str], layout: str = "") -> tuple[np.ndarray, Raster]:
    """Class probabilities of one patch, and the raster that says where it lies.

    Args:
        export: Folder of the SavedModel and its card.
        paths: Raster file of each sensor.
        layout: Data set whose files have the band order of these; needed where a file carries no band names.

    Returns:
        Probabilities (classes,), or (classes, H, W) of a model that labels pixels.

    Raises:
        UserError: A sensor or band is missing, or the pixels are not of the kind or size that the model was made for.
    """
    card = read_card(export)
    if paths.keys() != card["inputs"].keys():
        raise UserError(f"the model takes {', '.join(card['inputs'])}; --scene gives {', '.join(paths) or 'nothing'}")
    rasters = {name: geotiff.read(path) for name, path in paths.items()}
    images = {name: _bands(name, paths[name], raster, card, layout) for name, raster in rasters.items()}
    if len({image.shape[1:] for image in images.values()}) > 1:
        raise UserError(f"the rasters differ in size: {', '.join(f'{n} {i.shape[1:]}' for n, i in images.items())}")
    serve = tf.saved_model.load(str(export)).signatures["serving_default"]
    for name, spec in serve.structured_input_signature[1].items():
        if not spec.shape[1:].is_compatible_with(images[name].shape):
            raise UserError(f"{paths[name]}: {images[name].shape} values; this model takes {tuple(spec.shape[1:])} only")
    (probabilities,) = serve(**{name: tf.constant(image[None]) for name, image in images.items()})["probabilities"].numpy()
    return probabilities, next(iter(rasters.values()))


def write_map(path: Path, ids: np.ndarray, classes: list[dict], place: Raster) -> None:
    """Write class ids (H, W) as a raster of the classes' numbers with their colours as palette, GeoTIFF or PNG.

    Args:
        classes: Entries of a card: name, number and colour of each class.
        place: Where it lies: a raster of the same size.

    Raises:
        UserError: The name of the file ends otherwise.
    """
    if path.suffix.lower() not in DRIVERS:
        raise UserError(f"{path}: a map is written as {', '.join(DRIVERS)}")
    numbers = np.array([entry["number"] for entry in classes])
    colors = {entry["number"]: bytes.fromhex(entry["color"].removeprefix("#")) for entry in classes}
    data = numbers[ids].astype(np.min_scalar_type(numbers.max()))
    geotiff.write(path, Raster(data[None], place.crs, place.transform), colors, driver=DRIVERS[path.suffix.lower()])


def _bands(name: str, path: str, raster: Raster, card: dict, layout: str) -> np.ndarray:
    """The bands that the model takes, in its order."""
    wanted = card["inputs"][name]
    if raster.data.dtype != wanted["dtype"]:
        raise UserError(f"{path}: dtype is {raster.data.dtype}; the model takes {wanted['dtype']}, {wanted['unit']}")
    (height, width), size = raster.data.shape[1:], card["patch_size"]
    if card["task"] != "segmentation" and (height, width) != (size, size):
        raise UserError(f"{path}: {height}x{width} pixels; this model classifies patches of {size}x{size}")
    bands = raster.descriptions if all(raster.descriptions) else _layout(name, layout, path)
    if len(bands) != len(raster.data):
        raise UserError(f"{path}: {len(raster.data)} bands, the files of {layout} have {len(bands)}")
    return raster.data[list(Sensor(name, bands, wanted["dtype"], wanted["unit"]).index(wanted["bands"]))]


def _layout(name: str, layout: str, path: str) -> tuple[str, ...]:
    """The bands of a sensor's files in a data set."""
    if not layout:
        raise UserError(f"{path} carries no band names, and data sets order their bands differently; give --layout DATASET")
    sensors = {sensor.name: sensor for sensor in registry.dataset(layout)().sensors}
    if name not in sensors:
        raise UserError(f"data set {layout!r} has no sensor {name!r}; it has {', '.join(sensors)}")
    return sensors[name].bands
