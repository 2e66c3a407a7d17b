"""Data sets and models by name, imported on first use so that listing them costs nothing."""

import importlib

from tfrs.errors import unknown

DATASETS = {
    "sen12ms": "tfrs.datasets.sen12ms:Sen12MS",
    "eurosat": "tfrs.datasets.eurosat:EuroSat",
    "eurosat_rgb": "tfrs.datasets.eurosat:EuroSatRgb",
    "bigearthnet": "tfrs.datasets.bigearthnet:BigEarthNet",
    "bigearthnet_v2": "tfrs.datasets.bigearthnet_v2:BigEarthNetV2",
    "multisenge": "tfrs.datasets.multisenge:MultiSenGE",
}

MODELS = {
    "resnet50": "tfrs.models.resnet50:resnet50",
    "densenet121": "tfrs.models.densenet121:densenet121",
    "resnet_small": "tfrs.models.resnet_small:resnet_small",
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
