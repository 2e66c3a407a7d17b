"""The plain U-Net of the MultiSenGE authors."""

import keras
from keras import layers

from tfrs.models.build import from_scratch
from tfrs.models.encoder import Encoder
from tfrs.models.segmenter import Network

VGG16 = Encoder("vgg16", keras.applications.VGG16, keras.applications.vgg16.preprocess_input)
SKIPS = {"block4_conv3": 512, "block3_conv3": 256, "block2_conv2": 128, "block1_conv2": 64}  # and the decoder's width there
DROPOUT = 0.5
L2 = 0.01


def unet_wenger(name: str) -> Network:
    """U-Net on VGG16 without batch normalisation, for any number of channels; the head is a 1x1 convolution.

    From the authors' code (github.com/r-wenger/u-net_fusion, models.py, `unet_model`; the paper, Wenger et al. 2022, gives the
    backbone only): VGG16 of Keras up to block5_conv3; four times a 2x2 transposed convolution of stride 2 with 512, 256, 128
    and 64 filters, the skip connection, two 3x3 convolutions with ReLU and L2 of 0.01, and dropout of 0.5. The L2 terms are
    `losses` of the model, which the training loop must add. Ours: the He-normal start, without which so deep a network of
    ReLUs and no batch normalisation hardly trains; theirs is Keras's Glorot, or ImageNet.
    """
    return Network(VGG16, lambda channels, _: _features(channels, f"{name}_features"), multiple=16)


def _features(channels: int, name: str) -> keras.Model:
    encoder = VGG16.build(channels)
    x = encoder.get_layer("block5_conv3").output
    for skip, width in SKIPS.items():
        x = layers.Conv2DTranspose(width, 2, strides=2)(x)
        x = layers.Concatenate()([x, encoder.get_layer(skip).output])
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", activation="relu", kernel_regularizer=keras.regularizers.L2(L2))(x)
        x = layers.Dropout(DROPOUT)(x)
    return from_scratch(keras.Model(encoder.input, x), name)
