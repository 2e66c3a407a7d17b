"""Any height and width, known or not, for networks that halve their input several times."""

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable("tfrs")
class Pad(keras.layers.Layer):
    """(B, H, W, C) -> the same with zeros below and to the right, H and W up to the next multiple of `multiple`.

    Of z-scores, zero is the mean of the band.
    """

    def __init__(self, multiple, **kwargs):
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, inputs):
        _, height, width, _ = ops.shape(inputs)
        return ops.pad(inputs, [[0, 0], [0, -height % self.multiple], [0, -width % self.multiple], [0, 0]])

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        return (batch, *(side and side + -side % self.multiple for side in sides), channels)

    def get_config(self):
        return {**super().get_config(), "multiple": self.multiple}


@keras.saving.register_keras_serializable("tfrs")
class Mirror(keras.layers.Layer):
    """(B, H, W, C) -> (B, H + 2 margin, W + 2 margin, C), mirrored at the edges; in training the same.

    A network of windows so gives every pixel a class, and learns from pixels whose window is in the image only.
    """

    def __init__(self, margin, **kwargs):
        super().__init__(**kwargs)
        self.margin = margin

    def call(self, inputs, training=False):
        edge = [self.margin, self.margin]
        return inputs if training else ops.pad(inputs, [[0, 0], edge, edge, [0, 0]], mode="reflect")

    def compute_output_shape(self, input_shape):
        batch, *_, channels = input_shape
        return (batch, None, None, channels)

    def get_config(self):
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable("tfrs")
class Crop(keras.layers.Layer):
    """[values (B, H', W', K), image (B, H, W, C)] -> (B, H, W, K), the upper left of the values: undoes `Pad`."""

    def call(self, inputs):
        values, image = inputs
        _, height, width, _ = ops.shape(image)
        return values[:, :height, :width]

    def compute_output_shape(self, input_shape):
        values, image = input_shape
        return (*image[:3], values[3])


@keras.saving.register_keras_serializable("tfrs")
class Enlarge(keras.layers.Layer):
    """(B, H, W, C) -> (B, factor H, factor W, C) by bilinear interpolation.

    Keras 3.15's own, `UpSampling2D`, fails in a graph where H and W are unknown: it compares them with 0 in Python.
    """

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        _, height, width, _ = ops.shape(inputs)
        return ops.cast(tf.image.resize(inputs, (height * self.factor, width * self.factor)), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        return (batch, *(side and side * self.factor for side in sides), channels)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}
