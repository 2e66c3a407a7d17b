import re
from types import SimpleNamespace

import keras
import pytest

from tfrs import freezing
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.models.segmenter import segmenter

DENSE = SimpleNamespace(dense=True)


def test_encoder_of_a_segmenter():
    """VGG16 has 13 convolutions, named by block; those of the decoder go on learning."""
    image = keras.Input((None, None, 5))
    model = keras.Model(image, segmenter("unet_vgg16", 5, [3], size=32, encoder_weights="somewhere", load=False)(image))
    experiment = Experiment(model="unet_vgg16", task="segmentation", encoder_weights="somewhere", freeze_encoder=1)
    layers = freezing.encoder(experiment, DENSE, model)
    assert freezing.encoder(Experiment(model="unet_vgg16", task="segmentation"), DENSE, model) == []
    everything = len(model.trainable_variables)
    freezing.keep(layers, True)
    frozen = [weight for weight in model.weights if not weight.trainable]
    kernels = [weight for weight in frozen if re.search(r"block\d_conv\d.*kernel", weight.path)]
    assert len(kernels) == 13 and len(model.trainable_variables) == everything - 2 * 13  # kernel and bias
    assert not [weight.path for weight in model.trainable_variables if re.search(r"/block\d_conv", weight.path)]
    freezing.keep(layers, False)
    assert len(model.trainable_variables) == everything


def test_network_without_an_encoder():
    experiment = Experiment(model="cnn_dual", task="dual", init_from="runs/x", freeze_encoder=1)
    with pytest.raises(UserError, match="cnn_dual has no encoder apart from its other layers; leave out --freeze_encoder"):
        freezing.encoder(experiment, DENSE, keras.Sequential())
