"""An encoder that stays as it is for the first epochs, so that a new head does not spoil its weights."""

from collections.abc import Sequence

import keras
import numpy as np

from tfrs import registry
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.tasks import Task


def encoder(experiment: Experiment, task: Task, model: keras.Model) -> list[keras.Layer]:
    """The layers of a model that `--freeze_encoder` keeps; none without it.

    Raises:
        UserError: The model has no encoder, or none with weights worth keeping.
    """
    if not experiment.freeze_encoder:
        return []
    if not experiment.init_from and experiment.encoder_weights == "none":
        raise UserError("--freeze_encoder would keep random weights; give --init_from or --encoder_weights with it")
    if not task.dense:
        return [layer for layer in model.layers if isinstance(layer, keras.Model)]
    source = registry.segmenter(experiment.model)(experiment.model).encoder
    if source is None:
        raise UserError(f"{experiment.model} has no encoder apart from its other layers; leave out --freeze_encoder")
    names = {layer.name for layer in source.build(3).layers}
    (features,) = (layer for layer in model.get_layer(experiment.model).layers if isinstance(layer, keras.Model))
    return [layer for layer in features.layers if layer.name in names]


@keras.saving.register_keras_serializable("tfrs")
class Later(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule for an optimizer that counts its steps anew after so many of them."""

    def __init__(self, schedule, steps: int):
        self.schedule, self.steps = schedule, steps

    def __call__(self, step):
        return self.schedule(step + self.steps)

    def get_config(self):
        return {"schedule": self.schedule, "steps": self.steps}


def keep(layers: Sequence[keras.Layer], frozen: bool) -> None:
    """Keep layers as they are, or release them."""
    for layer in layers:
        layer.trainable = not frozen


def shift(optimizer: keras.optimizers.Optimizer, rate, steps: int) -> None:
    """Let the schedule of an optimizer that begins anew go on after so many steps."""
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        optimizer.learning_rate = Later(rate, steps)


def begin_anew(optimizer: keras.optimizers.Optimizer, start: Sequence[np.ndarray]) -> None:
    """Give an optimizer the variables of its start, but for a learning rate that a plateau may have lowered.

    Else the moments of the released layers would begin at 0 while Adam's correction for that is long over: their first updates
    would be up to six times as large as the learning rate says.
    """
    for variable, value in zip(optimizer.variables, start, strict=True):
        if variable.name != "learning_rate":
            variable.assign(value)
