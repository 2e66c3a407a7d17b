"""A run's best model as a SavedModel that takes raw values, with a card that says what it takes and returns."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import keras
import tensorflow as tf

from tfrs import __version__, assemble
from tfrs.errors import UserError
from tfrs.experiment import EXPORT, Experiment
from tfrs.labels import Scheme
from tfrs.models.input_stage import scales
from tfrs.records import Records
from tfrs.sensors import Sensor
from tfrs.tasks import Task

CARD = "card.json"
_JSON = {tf.uint16: tf.int32}


class Server(tf.Module):
    """Raw sensor values (B, C, H, W) by name -> {"probabilities": (B, classes)}, or (B, classes, H, W) of dense labels.

    A task with several heads has an output for each.
    """

    def __init__(self, model: keras.Model, task: Task):
        super().__init__()
        self.model, self.task = model, task
        # Sessions, as in C++ and TensorFlow Serving, restore what is tracked as TensorFlow's own, not Keras's, variables.
        self.weights = [variable.value for variable in model.variables]

    @tf.function
    def __call__(self, **images):
        probabilities = self.task.probabilities(self.model(images, training=False))
        if self.task.dense:
            probabilities = tf.transpose(probabilities, (0, 3, 1, 2))
        sizes = [len(scheme.classes) for scheme in self.task.heads.values()]
        return dict(zip(self.task.heads, tf.split(probabilities, sizes, axis=1), strict=True))

    @tf.function
    def serving_json(self, **images):
        """The same of int32 instead of uint16, for which TensorFlow Serving's json_tensor.cc knows no JSON."""
        return self(**{tensor.name: tf.saturate_cast(images[tensor.name], tensor.dtype) for tensor in self.model.inputs})


def export(experiment: Experiment, folder: Path, records: Records, task: Task, model: keras.Model, scores: dict) -> Path:
    """Write `<folder>/export`: the SavedModel and `card.json`."""
    target = folder / EXPORT
    temporary = folder / f"{EXPORT}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    server = Server(model, task)
    raw = {tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype, tensor.name) for tensor in model.inputs}
    wide = {name: tf.TensorSpec(spec.shape, _JSON.get(spec.dtype, spec.dtype), name) for name, spec in raw.items()}
    signatures = {
        "serving_default": server.__call__.get_concrete_function(**raw),
        "serving_json": server.serving_json.get_concrete_function(**wide),
    }
    tf.saved_model.save(server, str(temporary), signatures)
    card = make_card(experiment, records, task, scores)
    (temporary / CARD).write_text(json.dumps(card, indent=1) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    return target


def read_card(folder: Path) -> dict:
    """The card of an exported model.

    Raises:
        UserError: The folder is not an export.
    """
    try:
        return json.loads((folder / CARD).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no {CARD} that can be read; give the export folder of a finished run") from error


def make_card(experiment: Experiment, records: Records, task: Task, scores: dict) -> dict:
    """What a user of the model must know: inputs in order, classes in order, statistics, scores, versions, flags."""
    sensors = assemble.sensors(experiment, records)
    (name, scheme), *others = task.heads.items()
    return {
        "model": experiment.model,
        "task": task.name,
        "inputs": {
            name: {
                "bands": sensor.bands,
                "dtype": sensor.dtype,
                "unit": sensor.unit,
                "nodata": sensor.nodata,
                "layout": "(batch, band, row, column)",
                **_seen(sensor, experiment),
            }
            for name, sensor in sensors.items()
        },
        "output": {
            "name": name,
            "layout": "(batch, class, row, column)" if task.dense else "(batch, class)",
            "margin": assemble.margin_of(experiment, task),
        },
        "scheme": scheme.name,
        "classes": _legend(scheme),
        **({"other_outputs": {name: {"scheme": s.name, "classes": _legend(s)} for name, s in others}} if others else {}),
        "statistics": {
            name: {band: records.statistics[name][band] for band in sensor.bands} for name, sensor in sensors.items()
        },
        "normalization": {
            "statistics": experiment.normalization,
            **{name: scales(sensor, records.statistics, experiment.normalization) for name, sensor in sensors.items()},
        },
        "patch_size": records.schema.fields[next(iter(sensors))].shape[-1],
        "scores": scores,
        "data": {"dataset": records.name, "version": records.manifest["version"], "spec": records.manifest["spec"]},
        "versions": {"tfrs": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        "flags": experiment.to_flags().splitlines(),
    }


def _legend(scheme: Scheme) -> list[dict]:
    rows = zip(scheme.classes, scheme.numbers, scheme.colors, strict=True)
    return [{"name": name, "number": number, "color": f"#{color}"} for name, number, color in rows]


def _seen(sensor: Sensor, experiment: Experiment) -> dict:
    """What the model sees of a sensor, where that is more than its bands."""
    if sensor.channels == sensor.bands:
        return {}
    return {"channels": sensor.channels, "entropy": asdict(experiment.entropy)}
