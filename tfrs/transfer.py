"""The weights of another run as the start of this one: by name, and those of the first convolution by band."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfrs import aggregate, assemble
from tfrs.errors import UserError
from tfrs.experiment import EXPORT, Experiment
from tfrs.export import CARD, read_card
from tfrs.labels import Scheme
from tfrs.segmentation import Segmentation
from tfrs.sensors import Sensor, select
from tfrs.tasks import SingleLabel

HEAD = "logits"  # how the names of last layers begin


@dataclass(frozen=True)
class Network:
    """A model, the settings it was made by, and what goes in and comes out: channels of each sensor and classes, in order."""

    model: keras.Model
    experiment: Experiment
    channels: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]


def start_from(path: Path, target: Network) -> list[str]:
    """Give a model every weight of an exported one that fits; returns a line on each layer that did not get all of them.

    Layers fit by place, name and shape. The first convolution of an encoder takes the kernels of the channels that both
    models see, by sensor and name, in whatever order; those of other channels keep their start. The last layer is taken where
    both models have the same classes in the same order.

    Args:
        path: A run, or its export.

    Raises:
        UserError: There is no export, no layer of it fits, or its weights expect another input.
    """
    source = load(path)
    if (source.experiment.encoder_weights == "none") != (target.experiment.encoder_weights == "none"):
        raise UserError(  # image_input scales what goes into encoders with pretrained weights
            f"{path} was trained with --encoder_weights={source.experiment.encoder_weights}, whose input is scaled otherwise; "
            "give the same with --init_from (nothing is downloaded then)"
        )
    layers, firsts, known = dict(_layers(source.model)), _first_layers(target), _first_layers(source)
    left = []
    for name, layer in (ours := dict(_layers(target.model))).items():
        if name not in layers:
            left.append(f"{name} ({source.model.name} has none)")
            continue
        weights = layers[name].get_weights()
        if name in firsts and name in known:
            weights = [
                _by_channel(own, other, firsts[name], known[name])
                for own, other in zip(layer.get_weights(), weights, strict=True)
            ]
            if new := [f"{sensor} {channel}" for sensor, channel in firsts[name] if (sensor, channel) not in known[name]]:
                left.append(f"{name}, {', '.join(new)} (unknown to {source.model.name})")
        if _is_head(name) and source.classes != target.classes:
            left.append(f"{name} (of other classes: {', '.join(source.classes)})")
        elif [weight.shape for weight in weights] != [weight.shape for weight in layer.get_weights()]:
            left.append(f"{name} (of another shape)")
        else:
            layer.set_weights(weights)
    if len(left) == len(ours):
        raise UserError(f"{path}: a {source.model.name}, none of whose layers fits {target.model.name}")
    return left


def load(path: Path) -> Network:
    """The Keras model of an export, as its card describes it, with its weights.

    Raises:
        UserError: There is no export, or it is one of another version.
    """
    folder = path if (path / CARD).is_file() else path / EXPORT
    card = read_card(folder)
    experiment = Experiment.from_flags("\n".join(card["flags"]))
    columns = zip(*((c["name"], c["number"], c["color"].removeprefix("#")) for c in card["classes"]), strict=True)
    scheme = Scheme(card["scheme"], *columns)
    if experiment.task in aggregate.TASKS:
        kind, scheme = aggregate.TASKS[experiment.task]
        task = kind(scheme, (), "")
    else:
        task = Segmentation(scheme, (), "") if experiment.task == Segmentation.name else SingleLabel(scheme, ())
    channels = {name: tuple(entry.get("channels", entry["bands"])) for name, entry in card["inputs"].items()}
    sensors = {
        name: Sensor(name, tuple(entry["bands"]), entry["dtype"], entry["unit"], entry["nodata"])
        for name, entry in card["inputs"].items()
    }
    inputs = select(sensors, channels)
    model = assemble.network(experiment, inputs, task, card["statistics"], card["patch_size"], pretrained=False)
    try:
        checkpoint = tf.train.Checkpoint(model=model)
        checkpoint.read(str(folder / "variables/variables")).assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise UserError(f"{folder}: its variables are not those of {experiment.model} in this version") from error
    return Network(model, experiment, channels, scheme.classes)


def _layers(model: keras.Model, place: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Every layer with weights by its place and name.

    Keras counts layers without a name of their own through the whole process (conv2d_17); here they count by container.
    """
    count: Counter[str] = Counter()
    for layer in model.layers:
        stem = re.sub(r"_\d+$", "", layer.name)
        name = f"{place}{stem}" + (f"_{count[stem]}" if count[stem] else "")
        count[stem] += 1
        if isinstance(layer, keras.Model):
            yield from _layers(layer, f"{name}/")
        elif layer.weights:
            yield name, layer


def _is_head(name: str) -> bool:
    return name.rpartition("/")[2].startswith(HEAD)


def _first_layers(network: Network) -> dict[str, list[tuple[str, str]]]:
    """The layers whose weights belong to channels of the input, up to the first convolutions, and these (sensor, name)."""
    channels = [(sensor, channel) for sensor, channels in network.channels.items() for channel in channels]
    places: dict[str, list[tuple[str, keras.Layer]]] = {}
    for name, layer in _layers(network.model):
        places.setdefault(name.rpartition("/")[0], []).append((name, layer))
    found = {}
    for place, layers in places.items():
        # With late fusion each sensor has an encoder of its own, named after it.
        own = [(sensor, channel) for sensor, channel in channels if place.endswith(f"_{sensor}")] or channels
        convolutions = [
            (name, layer) for name, layer in layers if isinstance(layer, keras.layers.Conv2D) and not _is_head(name)
        ]
        if convolutions and convolutions[0][1].kernel.shape[2] == len(own):
            first = convolutions[0]
            found |= dict.fromkeys([name for name, _ in layers[: layers.index(first) + 1]], own)
            # Two branches on one input (CNN-dual) have a first convolution each.
            found |= dict.fromkeys([name for name, layer in convolutions if layer.input is first[1].input], own)
    return found


def _by_channel(own: np.ndarray, other: np.ndarray, channels: list, known: list) -> np.ndarray:
    """`own` weights of a first layer with those of `other` in the place of each channel that is `known`."""
    axis = 2 if own.ndim == 4 else 0  # kernels, or the normalisation before them
    if (own.shape[axis], other.shape[axis]) != (len(channels), len(known)):
        return other  # the bias of a convolution
    mixed, source = np.moveaxis(own.copy(), axis, 0), np.moveaxis(other, axis, 0)
    if mixed.shape[1:] != source.shape[1:]:
        return other
    for place, channel in enumerate(channels):
        if channel in known:
            mixed[place] = source[known.index(channel)]
    return np.moveaxis(mixed, 0, axis)
