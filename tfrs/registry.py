"""Data sets and models by name, imported on first use so that listing them costs nothing."""

import importlib

from tfrs.errors import UserError, unknown

DATASETS = {
    "sen12ms": "tfrs.datasets.sen12ms:Sen12MS",
    "eurosat": "tfrs.datasets.eurosat:EuroSat",
    "eurosat_rgb": "tfrs.datasets.eurosat:EuroSatRgb",
    "bigearthnet": "tfrs.datasets.bigearthnet:BigEarthNet",
    "bigearthnet_v2": "tfrs.datasets.bigearthnet_v2:BigEarthNetV2",
    "multisenge": "tfrs.datasets.multisenge:MultiSenGE",
    "fusion": "tfrs.datasets.fusion:Fusion",
}

MODELS = {
    "resnet50": "tfrs.models.resnet50:resnet50",
    "densenet121": "tfrs.models.densenet121:densenet121",
    "resnet_small": "tfrs.models.resnet_small:resnet_small",
    "cnn_class": "tfrs.models.cnn_class:cnn_class",
}

# Of segmentation-models 1.0.1; all were tried with Keras 3.15: build, train a step, save, load, export.
DECODERS = ("unet", "fpn", "linknet", "pspnet")
ENCODERS = (
    *("vgg16", "vgg19", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("densenet121", "densenet169", "densenet201", "mobilenet", "mobilenetv2"),
)
_LAMBDA = "its Lambda layers cannot be loaded again by Keras 3"
REFUSED_ENCODERS = {
    **dict.fromkeys(("seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152", "senet154"), _LAMBDA),
    **dict.fromkeys(("seresnext50", "seresnext101", "resnext50", "resnext101", "inceptionresnetv2"), _LAMBDA),
    **{f"efficientnetb{n}": "its activation is known to Keras only where the package was imported before" for n in range(8)},
    "inceptionv3": "its layers have no names of their own, by which pretrained weights could find them",
}

OWN_SEGMENTERS = {
    "cnn_segm": "tfrs.models.cnn_segm:cnn_segm",
    "cnn_dual": "tfrs.models.cnn_dual:cnn_dual",
    "unet_wenger": "tfrs.models.unet_wenger:unet_wenger",
    "deeplabv3plus_resnet50": "tfrs.models.deeplabv3plus:deeplabv3plus",
    "deeplabv3plus_densenet121": "tfrs.models.deeplabv3plus:deeplabv3plus",
}
SEGMENTERS = OWN_SEGMENTERS | {
    f"{decoder}_{encoder}": "tfrs.models.encoder_decoder:encoder_decoder" for decoder in DECODERS for encoder in ENCODERS
}


def _load(kind: str, table: dict[str, str], name: str):
    if name not in table:
        raise unknown(kind, name, table)
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def dataset(name: str):
    """The `Dataset` class registered under `name`."""
    return _load("data set", DATASETS, name)


def model(name: str):
    """The encoder function registered under `name`: (height, width, channels) features from images."""
    return _load("model", MODELS, name)


def segmenter(name: str):
    """The function registered under `name`: from the name to a `tfrs.models.segmenter.Network`.

    Raises:
        UserError: The name is unknown, or means an encoder of segmentation-models that does not work with Keras 3.
    """
    decoder, _, encoder = name.partition("_")
    if name in MODELS:
        raise UserError(f"{name} is a classifier; to label pixels take e.g. unet_vgg16 or deeplabv3plus_resnet50 (see --help)")
    if decoder in DECODERS and encoder in REFUSED_ENCODERS:
        raise UserError(f"{name}: {encoder} cannot be used, {REFUSED_ENCODERS[encoder]}. Encoders: {', '.join(ENCODERS)}.")
    return _load("model", SEGMENTERS, name)
