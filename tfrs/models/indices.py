"""Indices as a layer: computed in the model, from the digital numbers that go in."""

import dataclasses
import math

import keras
import tensorflow as tf

from tfrs.indices import INDICES, REFLECTANCE, Entropy
from tfrs.models.texture import cooccurrence_entropy


@keras.saving.register_keras_serializable("tfrs")
class Indices(keras.layers.Layer):
    """Indices of raw bands; spectral ones in -1..1 (clipped), entropy in 0..1 of the highest possible, 2 log(levels).

    Input (B, C, H, W) of any dtype, output (B, H, W, indices) in the layer's compute dtype, always finite. The arithmetic
    is in float32. A pixel has no index where a needed band is nodata or NaN or the formula divides by zero: it gets 0, and
    takes part in no pair of the entropy, which is 0 where there is no pair.

    Args:
        bands: Names of the bands that come in, in order.
        names: Names of `INDICES`, in the order wanted.
        nodata: Value of a band that marks a pixel without data.
        entropy: Settings of `Entropy`; those left out take their default.
    """

    def __init__(self, bands, names, nodata=None, entropy=None, **kwargs):
        super().__init__(autocast=False, **kwargs)  # Keras would cast float32 inputs to half precision before `call`
        self.bands, self.names, self.nodata = tuple(bands), tuple(names), nodata
        self.entropy = Entropy(**entropy or {})

    def call(self, inputs):
        planes = dict(zip(self.bands, tf.unstack(tf.cast(inputs, tf.float32), axis=1), strict=True))
        indices = [self._index(name, [planes[band] for band in INDICES[name].bands]) for name in self.names]
        return tf.cast(tf.stack(indices, axis=-1), self.compute_dtype)

    def _index(self, name, planes):
        value = INDICES[name].formula(*(plane / REFLECTANCE for plane in planes))
        valid = tf.math.is_finite(value)
        if self.nodata is not None:
            valid = tf.reduce_all([valid, *(plane != self.nodata for plane in planes)], axis=0)
        value = tf.where(valid, tf.clip_by_value(value, -1.0, 1.0), 0.0)
        if not INDICES[name].texture:
            return value
        levels = self.entropy.levels
        grey = tf.minimum(tf.cast((value + 1.0) / 2.0 * levels, tf.int32), levels - 1)
        entropy = cooccurrence_entropy(tf.where(valid, grey, -1), **dataclasses.asdict(self.entropy))
        return entropy / (2.0 * math.log(levels))

    def compute_output_shape(self, input_shape):
        batch, _, height, width = input_shape
        return (batch, height, width, len(self.names))

    def get_config(self):
        own = {"bands": self.bands, "names": self.names, "nodata": self.nodata, "entropy": dataclasses.asdict(self.entropy)}
        return {**super().get_config(), **own}
