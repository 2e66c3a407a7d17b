"""ResNet50 (He et al. 2016)."""

import keras

from tfrs.models.build import from_scratch


def resnet50(channels: int, name: str) -> keras.Model:
    """Encoder (B, H, W, channels) -> (B, H/32, W/32, 2048), from scratch."""
    return from_scratch(keras.applications.ResNet50(include_top=False, weights=None, input_shape=(None, None, channels)), name)
