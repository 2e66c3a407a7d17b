"""DeepLabV3+ (Chen et al. 2018)."""

import keras
from keras import layers

from tfrs.models.any_size import Enlarge
from tfrs.models.build import from_scratch
from tfrs.models.encoder import Encoder
from tfrs.models.segmenter import Network

WIDTH, LOW_WIDTH = 256, 48
RATES = (6, 12, 18)  # of the paper at output stride 16
# Each with the layer of its features of stride 4.
ENCODERS = {
    "resnet50": (
        Encoder("resnet50", keras.applications.ResNet50, keras.applications.resnet50.preprocess_input),
        "conv2_block3_out",
    ),
    "densenet121": (
        Encoder("densenet121", keras.applications.DenseNet121, keras.applications.densenet.preprocess_input),
        "pool2_relu",
    ),
}


def deeplabv3plus(name: str) -> Network:
    """DeepLabV3+ with output stride 16 on an encoder of `keras.applications`, the second half of `name`.

    Atrous spatial pyramid pooling at rates 6, 12, 18 and image pooling, 256 wide; features of stride 4 reduced to 48
    channels; two 3x3 convolutions; bilinear interpolation by 4 twice. The 3x3 convolutions of pyramid and decoder are
    separable, as the paper advises (sections 3.2, 4.3).

    keras-hub has a DeepLabV3+, too, on a ResNet only; it would be one more dependency for what are 50 lines on the backbones
    that the classifiers here are made of.
    """
    encoder, low = ENCODERS[name.partition("_")[2]]
    return Network(encoder, lambda channels, _: _features(encoder, low, channels, f"{name}_features"), multiple=16, stride=4)


def _features(encoder: Encoder, low: str, channels: int, name: str) -> keras.Model:
    pyramid = _dilated(encoder.build(channels))
    high = pyramid.output
    branches = [_convolution(high, WIDTH)]
    branches += [_separable(high, rate) for rate in RATES]
    x = layers.Conv2D(WIDTH, 1, use_bias=False)(layers.Concatenate()(branches))
    # The paper broadcasts the pooled image over all positions, concatenates it and projects. Projecting it by itself and adding
    # is the same function, and needs neither the size of the image nor a copy of one vector per pixel.
    pooled = _convolution(layers.GlobalAveragePooling2D(keepdims=True)(high), WIDTH)
    x = layers.Add()([x, layers.Conv2D(WIDTH, 1, use_bias=False)(pooled)])
    x = _activate(x)
    x = Enlarge(4)(x)
    x = layers.Concatenate()([x, _convolution(pyramid.get_layer(low).output, LOW_WIDTH)])
    x = _separable(_separable(x))
    return from_scratch(keras.Model(pyramid.input, x), name)


def _dilated(encoder: keras.Model) -> keras.Model:
    """The encoder with its last stage at stride 16: no step of 2 before it, and 3x3 kernels of rate 2 instead."""
    config = encoder.get_config()
    for layer in config["layers"]:
        options = layer["config"]
        if options["name"] == "pool4_pool":  # DenseNet's transition
            options |= {"pool_size": (1, 1), "strides": (1, 1)}
        elif options["name"].startswith("conv5_") and "kernel_size" in options:
            options["strides"] = (1, 1)
            options["dilation_rate"] = (2, 2) if tuple(options["kernel_size"]) == (3, 3) else (1, 1)
    return keras.Model.from_config(config)


def _convolution(x, width: int):
    return _activate(layers.Conv2D(width, 1, use_bias=False)(x))


def _separable(x, rate: int = 1):
    # Keras's He-normal takes all channels for the fan-in of a depthwise kernel, which has 9 inputs; 0.33 is the authors'.
    start = keras.initializers.TruncatedNormal(stddev=0.33)
    return _activate(
        layers.SeparableConv2D(
            *(WIDTH, 3),
            padding="same",
            dilation_rate=rate,
            use_bias=False,
            depthwise_initializer=start,
            pointwise_initializer="he_normal",
        )(x)
    )


def _activate(x):
    return layers.ReLU()(layers.BatchNormalization()(x))
