"""The steps of an epoch: how many batches each takes, and which go to the device in one call."""

import numpy as np

from tfrs.errors import UserError
from tfrs.experiment import Experiment


def steps_of(experiment: Experiment, count: int) -> list[int]:
    """Number of batches that each step of an epoch over so many records takes."""
    batches = -(-count // experiment.batch_size)
    return [min(experiment.accumulate, batches - start) for start in range(0, batches, experiment.accumulate)]


def check_steps(experiment: Experiment, count: int) -> None:
    """Raise a UserError where an epoch over so many records is shorter than the settings ask for."""
    batches, steps = -(-count // experiment.batch_size), len(steps_of(experiment, count))
    if experiment.accumulate > batches:
        raise UserError(
            f"--accumulate={experiment.accumulate}: an epoch of {count} records has only {batches} batches; "
            "give a smaller number"
        )
    if experiment.steps_per_execution > steps:
        raise UserError(
            f"--steps_per_execution={experiment.steps_per_execution}: an epoch has only {steps} steps; give a smaller number"
        )


def calls_of(experiment: Experiment, plan: np.ndarray, step: int) -> list[np.ndarray]:
    """For every call of the training step until the state is saved, the number of batches of each of its steps.

    Args:
        plan: Of the steps from `step` on.
    """
    every, size = experiment.save_every_steps, experiment.steps_per_execution
    plan = plan[: every - step % every] if every else plan
    return [plan[start : start + size] for start in range(0, len(plan), size)]
