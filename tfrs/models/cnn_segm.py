"""CNN-segm of SatImNet (Syrris et al. 2020)."""

import keras
from keras import layers

from tfrs.models.build import MOMENTUM
from tfrs.models.segmenter import Network

WIDTH, DEPTH = 256, 4  # convolutions of 2x2: a window of 5x5 becomes 1x1
DROPOUT = 0.1


def cnn_segm(name: str) -> Network:
    """The class of a pixel from the 5x5 window around it.

    With the softmax of 3 classes, 860,163 trainable parameters at 4 bands, as published (section 3.1). Stated there: tanh,
    batch normalisation, dropout of 0.1, Xavier normal start. The figure with the layers is not in the text, so the list is a
    reconstruction that satisfies every stated fact: four 2x2 convolutions of 256 with batch normalisation, a dense layer of
    256; dropout after each.
    """
    return Network(None, lambda channels, _: _features(channels, f"{name}_features"), multiple=1, margin=2)


def _features(channels: int, name: str) -> keras.Model:
    image = keras.Input((None, None, channels))
    x = image
    for _ in range(DEPTH):
        x = layers.Conv2D(WIDTH, 2, kernel_initializer="glorot_normal")(x)
        x = layers.BatchNormalization(momentum=MOMENTUM)(x)
        x = layers.Activation("tanh")(x)
        x = layers.Dropout(DROPOUT)(x)
    x = layers.Conv2D(WIDTH, 1, activation="tanh", kernel_initializer="glorot_normal")(x)
    return keras.Model(image, layers.Dropout(DROPOUT)(x), name=name)
