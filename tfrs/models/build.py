"""From sensors to logits: input stage, encoder, head."""

import warnings
from collections.abc import Mapping

import keras

from tfrs import registry
from tfrs.errors import unknown
from tfrs.indices import HARALICK, Entropy
from tfrs.models.encoder import kernel_start
from tfrs.models.input_stage import input_planes
from tfrs.models.segmenter import segmenter
from tfrs.sensors import Sensor
from tfrs.tasks import Task

FUSIONS = ("early", "late")
MOMENTUM = 0.9  # of moving averages in batch normalisation


def build(
    name: str,
    inputs: Mapping[str, Sensor],
    task: Task,
    statistics: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    fusion: str = "early",
    normalization: str = "records",
    dropout: float = 0.0,
    entropy: Entropy = HARALICK,
) -> keras.Model:
    """A classifier of raw sensor values.

    Args:
        name: A name of `registry.MODELS`.
        inputs: The sensors by name, each with the bands that go in and the channels wanted, in order.
        statistics: Sensor -> band -> {"mean", "std"}, as in the manifest.
        fusion: `early` concatenates the channels of all sensors (Schmitt & Wu 2021, section 3.3); `late` gives each sensor
            an encoder of its own and concatenates their pooled features.
        normalization: `records` for `statistics`, or a name of `statistics.PUBLISHED`.
        dropout: Rate before the last layer.
        entropy: How texture indices are computed.

    Returns:
        Model from {sensor: (B, C, H, W) in the sensor's dtype} to logits (B, classes) in float32.

    Raises:
        UserError: An unknown name, or a band without statistics.
    """
    if fusion not in FUSIONS:
        raise unknown("fusion", fusion, FUSIONS)
    channels = {key: len(sensor.channels) for key, sensor in inputs.items()}
    apart = fusion == "late" and len(inputs) > 1
    encoders = [
        _encoder(name, count, suffix)
        for count, suffix in ([(n, f"_{key}") for key, n in channels.items()] if apart else [(sum(channels.values()), "")])
    ]
    images, planes = input_planes(inputs, statistics, normalization, entropy, encoders[0].input.shape[1])
    streams = planes.values() if apart else [_joined(planes)]
    pooled = [
        keras.layers.GlobalAveragePooling2D(name=f"pool_{encoder.name}")(encoder(plane))
        for encoder, plane in zip(encoders, streams, strict=True)
    ]
    features = keras.layers.Concatenate(name="fusion")(pooled) if len(pooled) > 1 else pooled[0]
    if dropout:
        features = keras.layers.Dropout(dropout, name="dropout")(features)
    # float32 also under mixed precision: a softmax over half-precision logits loses small probabilities.
    logits = keras.layers.Dense(
        len(task.scheme.classes), kernel_initializer=kernel_start(encoders[0]), dtype="float32", name="logits"
    )(features)
    return keras.Model(images, logits, name=name)


def build_segmenter(
    name: str,
    inputs: Mapping[str, Sensor],
    task: Task,
    statistics: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    normalization: str = "records",
    entropy: Entropy = HARALICK,
    **options,
) -> keras.Model:
    """A model that labels every pixel of raw sensor values; the channels of all sensors are concatenated.

    Args:
        name: A name of `registry.SEGMENTERS`.
        options: Of `segmenter.segmenter`: size, encoder_weights, first_convolution, load, dropout.

    Returns:
        Model from {sensor: (B, C, H, W) in the sensor's dtype} to logits (B, H, W, classes of all heads) in float32.

    Raises:
        UserError: As `build` and `segmenter.segmenter`.
    """
    channels = sum(len(sensor.channels) for sensor in inputs.values())
    network = segmenter(name, channels, [len(head.classes) for head in task.heads.values()], **options)
    images, planes = input_planes(inputs, statistics, normalization, entropy, network.input.shape[1])
    return keras.Model(images, network(_joined(planes)), name=name)


def _joined(planes: Mapping[str, keras.KerasTensor]) -> keras.KerasTensor:
    first, *others = planes.values()
    return keras.layers.Concatenate(name="fusion")([first, *others]) if others else first


def _encoder(name: str, channels: int, suffix: str) -> keras.Model:
    with warnings.catch_warnings():
        # keras.applications warns about any number of channels but 1 and 3; other numbers are the rule here.
        warnings.filterwarnings("ignore", message="This model usually expects")
        return registry.model(name)(channels, name + suffix)


def from_scratch(model: keras.Model, name: str) -> keras.Model:
    """The same architecture, made to start as the reference training does: He-normal kernels (Kaiming normal), and batch
    normalisation whose moving averages have momentum 0.9 (PyTorch's 0.1; Keras's 0.99 needs hundreds of steps to arrive).
    """
    config = model.get_config()
    for layer in config["layers"]:
        if "kernel_initializer" in layer["config"]:
            layer["config"]["kernel_initializer"] = "he_normal"
        if layer["class_name"] == "BatchNormalization":
            layer["config"]["momentum"] = MOMENTUM
    return keras.Model.from_config({**config, "name": name})
