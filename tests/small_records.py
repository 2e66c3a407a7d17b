"""Random 16x16 patches with every kind of label, made in memory, and a small encoder: for tests of reading and training."""

import csv
import zlib
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfrecords_builder.writer import write
from tfrs.datasets.base import Dataset
from tfrs.datasets.eurosat import FILE_BANDS
from tfrs.datasets.sen12ms import labels_of
from tfrs.experiment import Experiment
from tfrs.labels import IGBP, IGBP_SIMPLIFIED
from tfrs.schema import Field, Schema
from tfrs.sensors import sentinel1, sentinel2

SIZE = 16
TIMES = ("seconds", "images_per_second", "waiting")


@dataclass(frozen=True)
class SmallPatches(Dataset):
    name = "small"
    sensors = (sentinel2(FILE_BANDS), sentinel1())
    layout = "nothing on disk"
    schema = Schema(
        {
            "key": Field("text"),
            "label": Field("label", scheme="igbp_simplified"),
            "labels": Field("labels", scheme="igbp_simplified"),
            "fractions": Field("fractions", scheme="igbp"),
            "s2": Field("raster", "uint16", (13, SIZE, SIZE)),
            "s1": Field("raster", "float32", (2, SIZE, SIZE)),
            "lc": Field("raster", "uint8", (1, SIZE, SIZE), "igbp"),
        },
        {"igbp": IGBP, "igbp_simplified": IGBP_SIMPLIFIED},
    )

    def index(self, root, split):
        raise NotImplementedError

    def read(self, root, key):
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        first, second = rng.choice((1, 7, 9, 12, 17), 2, replace=False)
        igbp = np.where(rng.random((SIZE, SIZE)) < 0.7, first, second)
        spectra = np.random.default_rng(0).integers(300, 5000, (13, 18))
        return {
            "key": key,
            **labels_of(igbp, key),
            "s2": (spectra[:, igbp] + rng.integers(0, 200, (13, SIZE, SIZE))).astype("uint16"),
            "s1": (-igbp + rng.normal(0, 1, (2, SIZE, SIZE))).astype("float32"),
            "lc": igbp[None].astype("uint8"),
        }

    def synthesize(self, root, n, seed):
        raise NotImplementedError


def write_records(folder, **counts):
    """Records with as many patches per split as `counts` says, in several shards."""
    keys = {split: [f"{split}_{number}" for number in range(count)] for split, count in counts.items()}
    return write(SmallPatches(), folder, folder, keys, shard_mb=0.1)


def encoder(channels, name):
    """Convolution and batch normalisation, trained in a second; for `registry.MODELS` as small_records:encoder."""
    image = keras.Input((None, None, channels))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", kernel_initializer="he_normal", use_bias=False)(image)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    return keras.Model(image, keras.layers.ReLU()(x), name=name)


def plain_encoder(channels, name):
    """A convolution, each sample for itself."""
    image = keras.Input((None, None, channels))
    return keras.Model(image, keras.layers.Conv2D(8, 3, 2, activation="relu")(image), name=name)


def settings(records, folder, **changes):
    """A short run of the small encoder, once `registry.MODELS` calls it "tiny"."""
    given = {"model": "tiny", "input": "s1s2", "task": "single_label", "batch_size": 8, "epochs": 3, **changes}
    return Experiment(records=str(records.directory), run_dir=str(folder), **given)


def history(folder):
    """Rows of `history.csv` but for what a clock says."""
    with open(folder / "history.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def saved(folder):
    """Every variable of the last checkpoint: weights, moving averages, optimizer, epoch, best score, seeds."""
    reader = tf.train.load_checkpoint(str(folder / "checkpoints"))
    return {
        name: reader.get_tensor(name) for name in reader.get_variable_to_dtype_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }
