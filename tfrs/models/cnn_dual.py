"""CNN-dual of SatImNet (Syrris et al. 2020)."""

import keras
from keras import layers

from tfrs.models.build import MOMENTUM
from tfrs.models.segmenter import Network

STAGES = ((160, 3), (160, 3), (192, 1), (192, 1))  # width and kernel of each stage: a window of 5x5 becomes 1x1
DENSE = 128
DROPOUT = 0.1


def cnn_dual(name: str) -> Network:
    """Two classes of a pixel, each by a branch of its own, from the 5x5 window around it.

    With the softmax of 3 and of 10 classes, 1,259,277 trainable parameters at 4 bands, as published (section 3.1). Stated
    there: three couplings between the branches, ReLU, batch normalisation, dropout of 0.1, He uniform start. The figure with
    the layers is not in the text, so the list is a reconstruction that satisfies every stated fact: per branch two 3x3
    convolutions of 160, two 1x1 of 192 and a dense layer of 128, all with batch normalisation and dropout; after each of the
    first three, both branches continue on the concatenation of the two.
    """
    return Network(None, lambda channels, _: _features(channels, f"{name}_features"), multiple=1, margin=2)


def _features(channels: int, name: str) -> keras.Model:
    image = keras.Input((None, None, channels))
    branches = [image, image]
    for stage, (width, kernel) in enumerate(STAGES):
        branches = [_convolution(x, width, kernel) for x in branches]
        if stage < len(STAGES) - 1:
            branches = [layers.Concatenate()(branches)] * 2
    return keras.Model(image, [_convolution(x, DENSE, 1) for x in branches], name=name)


def _convolution(x, width: int, kernel: int):
    x = layers.Conv2D(width, kernel, kernel_initializer="he_uniform")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    x = layers.ReLU()(x)
    return layers.Dropout(DROPOUT)(x)
