"""CNN-class of SatImNet (Syrris et al. 2020)."""

import keras
from keras import layers

from tfrs.models.build import MOMENTUM

SIZE = 64
WIDTHS = (32, 32, 64, 256, 256)
DENSE = (512, 128)
DROPOUT = 0.09


def cnn_class(channels: int, name: str) -> keras.Model:
    """Encoder (B, 64, 64, channels) -> (B, 1, 1, 128), for patches of 64x64 pixels only.

    With the softmax of 10 classes, 2,507,018 trainable parameters at 4 bands, as published (section 3.1). Stated there: ReLU,
    batch normalisation, dropout of 0.09, Xavier normal start. The figure with the layers is not in the text, so the list is a
    reconstruction that satisfies every stated fact: 2x2 convolutions of 32, 32, 64, 256 and 256 with batch normalisation, a
    2x2 max-pooling after each but the last (64 -> 4), dense layers of 512 and 128 with dropout after each. Pooling after each
    but the first would satisfy them as well, and halve the speed (measured on 2 cores: 415 and 204 images/s in training).
    """
    image = keras.Input((SIZE, SIZE, channels))
    x = image
    for stage, width in enumerate(WIDTHS):
        x = layers.Conv2D(width, 2, padding="same", kernel_initializer="glorot_normal")(x)
        x = layers.BatchNormalization(momentum=MOMENTUM)(x)
        x = layers.ReLU()(x)
        if stage < len(WIDTHS) - 1:
            x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    for width in DENSE:
        x = layers.Dense(width, activation="relu", kernel_initializer="glorot_normal")(x)
        x = layers.Dropout(DROPOUT)(x)
    return keras.Model(image, layers.Reshape((1, 1, DENSE[-1]))(x), name=name)
