"""DenseNet121 (Huang et al. 2017)."""

import keras

from tfrs.models.build import from_scratch


def densenet121(channels: int, name: str) -> keras.Model:
    """Encoder (B, H, W, channels) -> (B, H/32, W/32, 1024), from scratch."""
    return from_scratch(
        keras.applications.DenseNet121(include_top=False, weights=None, input_shape=(None, None, channels)), name
    )
