"""Encoders with ImageNet weights: their file, the layers it fills in a network, the input these weights expect."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tfrs.errors import UserError, unknown

FIRST_CONVOLUTIONS = ("mean", "random")
# Of ImageNet's pixels (0..255), averaged over red, green and blue; the same numbers stand in every `preprocess_input`.
IMAGENET_MEAN, IMAGENET_STD = 114.8, 57.6


@dataclass(frozen=True)
class Encoder:
    """A classifier of ImageNet without its top.

    Attributes:
        application: As of `keras.applications`: takes `include_top`, `weights` and `input_shape`.
        preprocess: RGB (N, H, W, 3) in 0..255 -> what the weights expect; affine in the values of a pixel.
    """

    name: str
    application: Callable[..., keras.Model]
    preprocess: Callable[[np.ndarray], np.ndarray]

    def build(self, channels: int, weights: str | None = None) -> keras.Model:
        """(B, H, W, channels) -> (B, H/32, W/32, features), for any H and W."""
        return self.application(include_top=False, weights=weights, input_shape=(None, None, channels))


@keras.saving.register_keras_serializable("tfrs")
class ColorInput(keras.layers.Layer):
    """z-scores of three bands -> clip(127.5 + 63.75 z, 0, 255) @ matrix + offset, what an encoder of colour images expects.

    Mean +- 2 standard deviations span 0..255. The arithmetic is in float32: bfloat16 has 8 bits for 256 levels.
    """

    def __init__(self, matrix, offset, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.matrix, self.offset = np.asarray(matrix).tolist(), np.asarray(offset).tolist()

    def call(self, inputs):
        pixels = ops.clip(127.5 + 63.75 * ops.cast(inputs, "float32"), 0, 255)
        return ops.cast(ops.matmul(pixels, ops.convert_to_tensor(self.matrix)) + self.offset, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "matrix": self.matrix, "offset": self.offset}


def image_input(encoder: Encoder, channels: int) -> keras.layers.Layer:
    """The layer from z-scores to the input that the ImageNet weights of `encoder` expect.

    Three channels go through the encoder's own preprocessing (`ColorInput`). Any other number has no red, green and blue:
    mean and deviation of each band become those of ImageNet's preprocessed pixels, averaged over the colours. That is 57.6 z
    where pixels of 0..255 are only centred (VGG, ResNet50 of Keras), 114.8 + 57.6 z where they go in as they are (ResNets of
    segmentation-models), and about z where they are standardised (DenseNet).
    """
    # The preprocessing is affine, so the images of black and of the three colours say all of it.
    probes = np.concatenate([np.zeros((1, 3)), np.eye(3)]).reshape(4, 1, 1, 3)
    offset, *rows = encoder.preprocess(probes).reshape(4, 3)
    matrix = np.stack(rows) - offset
    if channels == 3:
        return ColorInput(matrix, offset, name="image_input")
    gain = float(matrix.sum(axis=0).mean())
    level = float(offset.mean()) + IMAGENET_MEAN * gain
    return keras.layers.Rescaling(IMAGENET_STD * gain, level, dtype="float32", name="image_input")


def pretrained(encoder: Encoder, weights: str) -> keras.Model:
    """`encoder` for three channels with the weights of ImageNet (`imagenet`) or of the file `weights`.

    Raises:
        UserError: They cannot be fetched, the file is missing, or it holds something else.
    """
    wanted = f"the weights of {encoder.name} without its top (.h5, .weights.h5 or .keras)"
    with warnings.catch_warnings():
        # What Keras warns of is the rule here (no fixed size), or said by the error that follows.
        warnings.filterwarnings("ignore", "`input_shape` is undefined|Skipping nested container", UserWarning)
        if weights == "imagenet":
            return _downloaded(encoder, wanted)
        return _from_file(encoder, Path(weights), wanted)


def _downloaded(encoder: Encoder, wanted: str) -> keras.Model:
    try:
        return encoder.build(3, "imagenet")
    except Exception as error:  # Keras raises a bare Exception when the download fails
        raise UserError(
            f"ImageNet weights of {encoder.name}: {error}. Where there is no network, give the path of a file with {wanted}"
        ) from error


def _from_file(encoder: Encoder, path: Path, wanted: str) -> keras.Model:
    if not path.is_file():
        raise UserError(
            f"encoder weights {str(path)!r}: no such file. Give none, imagenet, or the path of a file with {wanted}"
        )
    model = encoder.build(3)
    try:
        model.load_weights(path)
    except Exception as error:  # ValueError, OSError, KeyError or BadZipFile, by what is wrong
        raise UserError(f"{path} does not hold {wanted}: {str(error).splitlines()[0]}") from error
    return model


def fill(network: keras.Model, source: keras.Model, first_convolution: str) -> None:
    """Copy the weights of `source`, an encoder for three channels, into the layers of the same names in `network`.

    Where the network has another number of channels, its first convolution gets for each channel the mean of the three
    kernels times 3/channels, so that a grey image has the same response (`mean`), or stays as it is (`random`); a
    normalisation before it gets the mean of the three channels. A network may end before the encoder does (PSPNet).

    Raises:
        UserError: `first_convolution` is unknown, or a layer of the encoder would be left without its weights.
    """
    if first_convolution not in FIRST_CONVOLUTIONS:
        raise unknown("first convolution", first_convolution, FIRST_CONVOLUTIONS)
    names = [layer.name for layer in source.layers if layer.weights]
    there = {layer.name for layer in network.layers}
    shared = [name for name in names if name in there]
    if not shared or shared != names[: len(shared)]:
        missing = next(name for name in names if name not in there)
        raise UserError(f"{network.name} has no layer {missing!r}: its encoder and the pretrained one are of two versions")
    channels = network.input.shape[-1]
    first = next(layer.name for layer in source.layers if isinstance(layer, keras.layers.Conv2D))
    for name in shared:
        target, weights = network.get_layer(name), source.get_layer(name).get_weights()
        if channels != 3 and name == first:
            if first_convolution == "random":
                continue
            weights[0] = np.repeat(weights[0].mean(axis=2, keepdims=True) * 3 / channels, channels, axis=2)
        elif channels != 3 and names.index(name) < names.index(first):
            weights = [np.full(channels, weight.mean()) for weight in weights]
        target.set_weights(weights)


def kernel_start(model: keras.Model) -> keras.initializers.Initializer:
    """How the kernels of a network start, by its last; the head on top of it starts alike."""
    return next(layer.kernel_initializer for layer in reversed(model.layers) if hasattr(layer, "kernel_initializer"))
