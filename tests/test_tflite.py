"""The conversion to TensorFlow Lite in BUILD.md, run as it is written there."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_records import encoder

from tfrs.export import Server
from tfrs.labels import EUROSAT
from tfrs.models.any_size import Crop, Enlarge, Pad
from tfrs.models.normalize import Normalize
from tfrs.segmentation import Segmentation
from tfrs.tasks import SingleLabel


def classifier(image):
    return keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(encoder(3, "small")(image)))


def segmenter(image):
    """What U-Net and DeepLabV3+ do around their convolutions, with sizes that 3 does not divide."""
    x = keras.layers.Conv2D(8, 3, 3, activation="relu")(Pad(3)(image))
    return Crop()([Enlarge(3)(keras.layers.Conv2D(10, 1)(x)), image])


@pytest.mark.parametrize("network", [classifier, segmenter])
@pytest.mark.filterwarnings("ignore")
def test_lite_model_gives_the_same_probabilities(tmp_path, monkeypatch, network):
    keras.utils.set_random_seed(0)
    image = keras.Input((3, None, None), dtype="uint16", name="s2")
    model = keras.Model(image, network(Normalize([1000.0, 1200.0, 900.0], [500.0, 400.0, 600.0])(image)))
    task = SingleLabel(EUROSAT, ("label",)) if network is classifier else Segmentation(EUROSAT, ("map",), "eurosat")
    server = Server(model, task)
    spec = tf.TensorSpec((None, 3, None, None), tf.uint16, "s2")
    tf.saved_model.save(
        server, str(tmp_path / "runs/NAME/export"), {"serving_default": server.__call__.get_concrete_function(s2=spec)}
    )
    (code,) = re.findall(
        r"```python\n(.*?TFLiteConverter.*?)```", (Path(__file__).parents[1] / "BUILD.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    lite = tf.lite.Interpreter(model_content=found["content"])
    lite.allocate_tensors()
    (given,), (returned,) = lite.get_input_details(), lite.get_output_details()
    patch = np.random.default_rng(0).integers(1, 9000, (1, 3, 64, 64)).astype(np.uint16)
    lite.set_tensor(given["index"], patch)
    lite.invoke()
    expected = task.probabilities(model(patch, training=False)).numpy()
    expected = np.moveaxis(expected, -1, 1) if task.dense else expected
    assert given["dtype"] is np.uint16 and expected.max() > 0.15
    np.testing.assert_allclose(lite.get_tensor(returned["index"]), expected, atol=1e-5)
