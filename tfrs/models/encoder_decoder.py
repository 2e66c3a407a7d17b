"""U-Net, FPN, Linknet and PSPNet of the package segmentation-models 1.0.1; the only file that imports it.

The package is of the time of Keras 2. What it needs beside Keras 3 stands here: `SM_FRAMEWORK` before the import (its own
choice, plain `keras`, fails), silence while it imports, `keras.applications` in place of its DenseNets (their layers have a `/`
in their names, which Keras 3 refuses; the layers are the same, in the same order), and `Enlarge` for its bilinear upsampling.
"""

import contextlib
import functools
import io
import os

import keras
import numpy as np

from tfrs.models.any_size import Enlarge
from tfrs.models.build import from_scratch
from tfrs.models.encoder import Encoder
from tfrs.models.segmenter import Network

DECODERS = {"unet": "Unet", "fpn": "FPN", "linknet": "Linknet", "pspnet": "PSPNet"}
DENSENETS = {
    "densenet121": keras.applications.DenseNet121,
    "densenet169": keras.applications.DenseNet169,
    "densenet201": keras.applications.DenseNet201,
}


def encoder_decoder(name: str) -> Network:
    """The network of the package that `name`, `<decoder>_<encoder>`, says; its last convolution is left to the head.

    All sizes are the package's defaults: U-Net and Linknet (Ronneberger et al. 2015; Chaurasia & Culurciello 2017) with
    decoders of 256, 128, 64, 32 and 16 filters, FPN (Kirillov et al. 2019) with a pyramid of 256, PSPNet (Zhao et al. 2017) on
    features of stride 8 with pools of 1, 2, 3 and 6 cells, for which the side must be a multiple of 48.
    """
    decoder, _, encoder = name.partition("_")
    source = Encoder(encoder, functools.partial(_application, encoder), functools.partial(_preprocess, encoder))
    features = functools.partial(_features, decoder, encoder)
    if decoder == "pspnet":
        return Network(source, features, multiple=48, stride=8, kernel=3, fixed=True)
    return Network(source, features, multiple=32, kernel=3)


@functools.cache
def _package():
    os.environ["SM_FRAMEWORK"] = "tf.keras"
    with contextlib.redirect_stdout(io.StringIO()):
        import segmentation_models
    for name, application in DENSENETS.items():
        segmentation_models.Backbones._models_update[name] = [
            functools.partial(_without_modules, application),
            functools.partial(_without_modules, keras.applications.densenet.preprocess_input),
        ]
    return segmentation_models


def _without_modules(function, *args, **options):
    """The package hands the modules of Keras to every function of its table."""
    modules = ("backend", "layers", "models", "utils")
    return function(*args, **{key: value for key, value in options.items() if key not in modules})


def _application(encoder: str, **options) -> keras.Model:
    modules = {"backend": keras.backend, "layers": keras.layers, "models": keras.models, "utils": keras.utils}
    return _package().Backbones.get_backbone(encoder, **options, **modules)


def _preprocess(encoder: str, images: np.ndarray) -> np.ndarray:
    return _package().get_preprocessing(encoder)(images)


def _features(decoder: str, encoder: str, channels: int, side: int | None) -> keras.Model:
    make = getattr(_package(), DECODERS[decoder])
    model = make(encoder, input_shape=(side, side, channels), encoder_weights=None, activation="linear")
    last = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)][-1]
    model = keras.models.clone_model(keras.Model(model.input, last.input), clone_function=_with_enlarge)
    return from_scratch(model, f"{decoder}_{encoder}_features")


def _with_enlarge(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The same layer, but `Enlarge` for bilinear interpolation."""
    if isinstance(layer, keras.layers.UpSampling2D) and layer.interpolation == "bilinear":
        return Enlarge(layer.size[0], name=layer.name)
    return layer.from_config(layer.get_config())
