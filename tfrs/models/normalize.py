"""The input stage: raw band-first values to normalised channels-last ones."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfrs")
class Normalize(keras.layers.Layer):
    """Cast, clip, z-score per band, and move bands last. NaN becomes the band's mean, that is 0.

    Input (B, C, H, W) of any dtype, output (B, H, W, C) in the layer's compute dtype. The arithmetic is in float32:
    digital numbers go up to 65,535, beyond float16.

    Args:
        mean: Per band, in the unit of the input.
        std: Per band; a constant band (0) is only centred.
        clip: Lowest and highest value kept, before the z-score.
    """

    def __init__(self, mean, std, clip=None, **kwargs):
        super().__init__(autocast=False, **kwargs)  # Keras would cast float32 inputs to half precision before `call`
        self.mean, self.std = [float(v) for v in mean], [float(v) for v in std]
        self.clip = None if clip is None else [float(v) for v in clip]

    def build(self, input_shape):
        if input_shape[1] != len(self.mean):
            raise ValueError(f"{self.name}: {input_shape[1]} bands come in, statistics are of {len(self.mean)}")

    def call(self, inputs):
        values = ops.cast(inputs, "float32")
        if self.clip:
            values = ops.clip(values, *self.clip)
        shape = (1, -1, 1, 1)
        std = ops.reshape(ops.convert_to_tensor([s or 1.0 for s in self.std]), shape)
        values = (values - ops.reshape(ops.convert_to_tensor(self.mean), shape)) / std
        values = ops.where(ops.isnan(values), 0.0, values)
        return ops.cast(ops.transpose(values, (0, 2, 3, 1)), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        batch, bands, height, width = input_shape
        return (batch, height, width, bands)

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "std": self.std, "clip": self.clip}
