"""A scene of random values in single-band files and an exported model that labels each pixel by itself, both known to NumPy."""

import json

import numpy as np
import rasterio
import tensorflow as tf

from tfrs.labels import EUROSAT
from tfrs.predict import DENSE

UTM = "EPSG:32648"
PLACE = (10.0, 0.0, 362_612.2, 0.0, -10.0, 1_987_088.2)
BANDS = ("B04", "B8A", "B02")
CLASSES = 3
MEANS = {"B04": 1000.0, "B8A": 2000.0, "B02": 500.0}


def write(path, data, *, place=PLACE, crs=UTM, names=(), **profile):
    """A GeoTIFF (C, H, W), by rasterio alone."""
    data = data if data.ndim == 3 else data[None]
    options = {"count": data.shape[0], "height": data.shape[1], "width": data.shape[2], "dtype": data.dtype, **profile}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **{"driver": "GTiff", "crs": crs, "transform": rasterio.Affine(*place), **options}) as file:
        file.write(data)
        if names:
            file.descriptions = names
    return path


def scene(height, width, seed=0):
    """Digital numbers (3, height, width), with pixels without data, and a dark one that shows that there is no offset."""
    data = np.random.default_rng(seed).integers(200, 5000, (len(BANDS), height, width)).astype(np.uint16)
    data[:, height // 3 : height // 3 + 3, : width // 4] = 0
    return data


def bands_folder(folder, data):
    """`data` as a folder of single-band files."""
    for name, band in zip(BANDS, data, strict=True):
        write(folder / f"T48QUE_20200223T032739_{name}.tif", band)
    return folder


def pixel_probabilities(data):
    """What the dense model says, by NumPy: (3, H, W)."""
    weights = np.maximum(data.astype(np.float64), 1)
    return weights / weights.sum(axis=0)


def export(folder, dense=True, patch=16, size=None, inputs=None):
    """A SavedModel with its card: the share of each band in the pixel's sum, or in the sums over a patch."""

    class Model(tf.Module):
        @tf.function
        def __call__(self, s2):
            values = tf.maximum(tf.cast(s2, tf.float32), 1)
            values = values if dense else tf.reduce_sum(values, (2, 3))
            shares = values / tf.reduce_sum(values, 1, keepdims=True)
            return {"probabilities": shares, "upside_down": shares[:, ::-1]}

    model = Model()
    spec = tf.TensorSpec((None, len(BANDS), size, size), tf.uint16, "s2")
    tf.saved_model.save(model, str(folder), {"serving_default": model.__call__.get_concrete_function(s2=spec)})
    (folder / "card.json").write_text(json.dumps(card(dense, patch)))
    return folder


def card(dense=True, patch=16):
    return {
        "task": "segmentation" if dense else "single_label",
        "inputs": {"s2": {"bands": BANDS, "dtype": "uint16", "unit": "digital number (reflectance x 10,000)", "nodata": 0}},
        "output": {"name": "probabilities", "layout": DENSE if dense else "(batch, class)"},
        "scheme": "eurosat",
        "classes": _legend()[:CLASSES],
        "other_outputs": {"upside_down": {"scheme": "other", "classes": _legend()[CLASSES : 2 * CLASSES]}},
        "statistics": {"s2": {band: {"mean": mean, "std": 1.0} for band, mean in MEANS.items()}},
        "patch_size": patch,
        "data": {"dataset": "eurosat", "spec": {}},
    }


def _legend():
    rows = zip(EUROSAT.classes, EUROSAT.numbers, EUROSAT.colors, strict=True)
    return [{"name": name, "number": number, "color": f"#{color}"} for name, number, color in rows]
