"""Networks that label every pixel: padding, the input of pretrained encoders, architecture, head."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras

from tfrs import registry
from tfrs.errors import UserError, unknown
from tfrs.models.any_size import Crop, Enlarge, Mirror, Pad
from tfrs.models.encoder import FIRST_CONVOLUTIONS, Encoder, fill, image_input, kernel_start, pretrained


@dataclass(frozen=True)
class Network:
    """What `segmenter` must know of an architecture; each function of `registry.SEGMENTERS` makes one.

    Attributes:
        encoder: Source of pretrained weights, if any; layers of the same names are in the model of features.
        features: (channels, side or None) -> model from (B, H, W, channels) to (B, H/stride, W/stride, features), or to a
            list of such, one per head.
        multiple: Of which H and W must be.
        stride: Pixels per logit; the head interpolates bilinearly.
        kernel: Side of the last convolution.
        fixed: H and W must be known; `features` is called with them instead of None.
        margin: Pixels that `features` loses at each edge: each logit is of a window of 2 margin + 1 pixels. The model makes
            up for them by mirroring the image, but not in training.
    """

    encoder: Encoder | None
    features: Callable[[int, int | None], keras.Model]
    multiple: int
    stride: int = 1
    kernel: int = 1
    fixed: bool = False
    margin: int = 0


def segmenter(
    name: str,
    channels: int,
    heads: Sequence[int],
    *,
    size: int,
    encoder_weights: str = "none",
    first_convolution: str = "mean",
    load: bool = True,
    dropout: float = 0.0,
) -> keras.Model:
    """A network from normalised planes to logits per pixel.

    Kernels start He-normal and batch normalisation has momentum 0.9, as in the project's other models. The latter holds with
    pretrained encoders too: at 0.99 the averages of ImageNet would still weigh a third after 100 steps.

    Args:
        name: A name of `registry.SEGMENTERS`.
        heads: Number of classes of each head.
        size: Side of the patches in pixels. PSPNet takes this side only; all others take any height and width.
        encoder_weights: `none`: z-scores go in as they are. `imagenet`: downloaded by Keras or segmentation-models.
            Otherwise the path of a file with the encoder's weights (`encoder.pretrained`). With weights, z-scores become the
            input that these expect: `encoder.image_input`.
        load: Fetch the encoder's weights; without, only the input is made for them, and the weights of a whole run can follow.
        first_convolution: `mean` or `random`, see `encoder.fill`; with 3 channels the pretrained one is taken as it is.
        dropout: Rate before the last convolution; `unet_wenger` has more of its own.

    Returns:
        Model from z-scores (B, H, W, channels) to logits (B, H, W, classes of all heads) in float32.

    Raises:
        UserError: An unknown name, another number of heads than the network has, or weights that cannot be had.
    """
    if first_convolution not in FIRST_CONVOLUTIONS:
        raise unknown("first convolution", first_convolution, FIRST_CONVOLUTIONS)
    network = registry.segmenter(name)(name)
    if encoder_weights != "none" and network.encoder is None:
        raise UserError(f"{name} has no encoder with weights of ImageNet; leave out --encoder_weights")
    side = size + -size % network.multiple if network.fixed else None
    with warnings.catch_warnings():
        # keras.applications warns about any number of channels but 1 and 3; other numbers are the rule here.
        warnings.filterwarnings("ignore", message="This model usually expects")
        features = network.features(channels, side)
    planes = keras.Input((size, size, channels) if network.fixed else (None, None, channels), name="planes")
    x = Pad(network.multiple, name="pad")(planes)
    if network.margin:
        x = Mirror(network.margin, name="mirror")(x)
    if encoder_weights != "none":
        if load:
            fill(features, pretrained(network.encoder, encoder_weights), first_convolution)
        x = image_input(network.encoder, channels)(x)
    x = features(x)
    branches = x if isinstance(x, list) else [x]
    if len(branches) == 1:  # heads on the same features are one layer
        heads = [sum(heads)]
    if len(branches) != len(heads):
        raise UserError(f"{name} has {len(branches)} heads, for python -m experiments.dual with --task=dual only")
    if dropout:
        branches = [keras.layers.Dropout(dropout, name=f"dropout{i or ''}")(x) for i, x in enumerate(branches)]
    start = kernel_start(features)
    # float32 also under mixed precision: a softmax over half-precision logits loses small probabilities.
    logits = [
        keras.layers.Conv2D(
            classes, network.kernel, padding="same", kernel_initializer=start, dtype="float32", name=f"logits{i or ''}"
        )(x)
        for i, (x, classes) in enumerate(zip(branches, heads, strict=True))
    ]
    x = keras.layers.Concatenate(dtype="float32", name="heads")(logits) if len(logits) > 1 else logits[0]
    if network.stride > 1:
        x = Enlarge(network.stride, dtype="float32", name="full_size")(x)
    return keras.Model(planes, Crop(dtype="float32", name="crop")([x, planes]), name=name)
