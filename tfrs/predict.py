"""What an exported model says of one patch; needs the SavedModel and its card only."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfrs import geotiff, registry
from tfrs.datasets.multisenge import MultiSenGE, digital_numbers
from tfrs.errors import UserError
from tfrs.export import CARD
from tfrs.geotiff import Raster
from tfrs.sensors import Sensor
from tfrs.storage import replacing

SEGMENTATION = "segmentation"  # task of the models that label pixels
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
        Probabilities (classes,), or (classes, H, W) of a model that labels pixels: NaN where a sensor has no data.

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
    if card["task"] == SEGMENTATION:
        for name, image in images.items():
            probabilities[:, missing(image, card["inputs"][name]["nodata"])] = np.nan
    return probabilities, next(iter(rasters.values()))


def missing(image: np.ndarray, nodata: float | None) -> np.ndarray:
    """Pixels (H, W) of an image (C, H, W) that have no data: nodata in all bands, or NaN in one."""
    return np.isnan(image).any(axis=0) if nodata is None else (image == nodata).all(axis=0)


def check_output(path: Path, classes: list[dict], inputs: Iterable[str]) -> None:
    """See that a map can be written, before it is made.

    Args:
        classes: Entries of a card.
        inputs: Files that the map must not replace.

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
    if path.exists() and any(path.samefile(other) for other in inputs):
        raise UserError(f"{path} is the image itself; give another --output")


def write_map(path: Path, probabilities: np.ndarray, classes: list[dict], place: Raster) -> np.ndarray:
    """Write a raster of the most probable classes' numbers with their colours as palette, GeoTIFF or PNG; 0: no data.

    Args:
        probabilities: (classes, H, W), NaN where there are no data.
        classes: Entries of a card: name, number and colour of each class.
        place: Where it lies: a raster of the same size.

    Returns:
        Share (classes,) of each class in the pixels with data.
    """
    numbers = np.array([0, *(entry["number"] for entry in classes)])
    colors = {entry["number"]: bytes.fromhex(entry["color"].removeprefix("#")) for entry in classes}
    ids = np.where(np.isnan(probabilities).any(axis=0), 0, probabilities.argmax(axis=0) + 1)
    data = numbers[ids].astype(np.min_scalar_type(numbers.max()))
    raster = Raster(data[None], place.crs, place.transform, nodata=0)
    with replacing(path) as temporary:
        geotiff.write(temporary, raster, colors, driver=DRIVERS[path.suffix.lower()])
    counts = np.bincount(ids.ravel(), minlength=len(numbers))[1:]
    return counts / max(counts.sum(), 1)


def _bands(name: str, path: str, raster: Raster, card: dict, layout: str) -> np.ndarray:
    """The bands that the model takes, in its order."""
    wanted = card["inputs"][name]
    if layout == MultiSenGE.name and name == "s2":
        raster = digital_numbers(path, raster)  # its files are uint16 or int16
    if raster.data.dtype != wanted["dtype"]:
        raise UserError(f"{path}: dtype is {raster.data.dtype}; the model takes {wanted['dtype']}, {wanted['unit']}")
    (height, width), size = raster.data.shape[1:], card["patch_size"]
    if card["task"] != SEGMENTATION and (height, width) != (size, size):
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
