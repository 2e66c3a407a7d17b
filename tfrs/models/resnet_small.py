"""A small ResNet for small patches: what trains on a CPU in minutes."""

import keras
from keras import layers

from tfrs.models.build import MOMENTUM

WIDTHS = (32, 64, 128, 256)


def resnet_small(channels: int, name: str) -> keras.Model:
    """Encoder (B, H, W, channels) -> (B, H/16, W/16, 256), from scratch; 2.8 million parameters at 3 channels.

    The 18-layer layout of basic blocks (He et al. 2016, Table 1) at half its width, with a 3x3 stem of stride 2 and no
    pooling: the published stem would leave a 64x64 patch 2x2 features.
    """
    image = keras.Input((None, None, channels))
    x = _convolution(image, WIDTHS[0], stride=2)
    for stage, width in enumerate(WIDTHS):
        for block in range(2):
            x = _basic_block(x, width, stride=2 if stage and not block else 1)
    return keras.Model(image, x, name=name)


def _basic_block(x, width: int, stride: int):
    shortcut = x
    if stride > 1 or x.shape[-1] != width:
        shortcut = _convolution(x, width, kernel=1, stride=stride, activate=False)
    x = _convolution(x, width, stride=stride)
    x = _convolution(x, width, activate=False)
    return layers.ReLU()(layers.Add()([x, shortcut]))


def _convolution(x, width: int, kernel: int = 3, stride: int = 1, activate: bool = True):
    x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    return layers.ReLU()(x) if activate else x
