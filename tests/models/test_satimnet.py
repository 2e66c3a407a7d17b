import math

import keras
import numpy as np
import pytest

from tfrs.labels import EUROSAT
from tfrs.models.build import build
from tfrs.sensors import resolve, select, sentinel2
from tfrs.tasks import SingleLabel

SENSORS = select({"s2": sentinel2()}, resolve("s2_10m", {"s2": sentinel2()}))
STATISTICS = {"s2": {band: {"mean": 1000.0 + i, "std": 300.0} for i, band in enumerate(SENSORS["s2"].bands)}}


def trainable(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def layers(model, kind):
    found = [layer for layer in model.layers if isinstance(layer, kind)]
    return found + [layer for inner in model.layers if isinstance(inner, keras.Model) for layer in layers(inner, kind)]


@pytest.fixture(scope="module")
def cnn_class():
    keras.utils.set_random_seed(0)
    return build("cnn_class", SENSORS, SingleLabel(EUROSAT, ("label",)), STATISTICS)


def test_cnn_class_has_the_published_parameters(cnn_class):
    """Syrris et al. 2020, section 3.1."""
    assert trainable(cnn_class) == 2_507_018
    assert cnn_class.input_shape == (None, 4, 64, 64) and cnn_class.output_shape == (None, 10)
    assert {layer.rate for layer in layers(cnn_class, keras.layers.Dropout)} == {0.09}
    assert len(layers(cnn_class, keras.layers.BatchNormalization)) == 5


def test_cnn_class_starts_xavier_normal(cnn_class):
    """Standard deviation sqrt(2 / (fan_in + fan_out)), the head's too (Glorot & Bengio 2010)."""
    kernels = [layer.kernel.numpy() for layer in layers(cnn_class, (keras.layers.Conv2D, keras.layers.Dense))]
    assert len(kernels) == 8
    for kernel in kernels:
        *window, before, after = kernel.shape
        expected = math.sqrt(2 / (math.prod(window) * (before + after)))
        assert kernel.std() / expected == pytest.approx(1, abs=4 / math.sqrt(kernel.size))
        assert np.abs(kernel).max() > 1.75 * kernel.std()  # of a uniform distribution it is 1.73


def test_head_of_other_classifiers_stays_he_normal():
    model = build("resnet_small", SENSORS, SingleLabel(EUROSAT, ("label",)), STATISTICS)
    assert isinstance(model.get_layer("logits").kernel_initializer, keras.initializers.HeNormal)
