"""Why the loss of a step is not finite, as far as the batch can tell."""

from pathlib import Path

import numpy as np

from tfrs import assemble, order, storage
from tfrs.epoch import steps_of
from tfrs.errors import UserError
from tfrs.experiment import CHECKPOINTS, Experiment, is_begun
from tfrs.records import Records

EXTREME = 100  # standard deviations from the mean of the band
SHOWN = 8  # keys


def error(experiment: Experiment, folder: Path, records: Records, epoch: int, first: int, rows: np.ndarray) -> UserError:
    """What to tell of an epoch (from 0) whose loss is not finite from some step on, or whose last step spoilt the weights.

    Args:
        first: Number of the step of the first row.
        rows: As of `steps.make_train_steps`.
    """
    bad = np.flatnonzero(~np.isfinite(rows[:, 0]))
    row = int(bad[0]) if len(bad) else len(rows) - 1
    step = first + row
    plan = steps_of(experiment, records.count("train"))
    batches = range(sum(plan[:step]), sum(plan[: step + 1]))
    what = f"the loss of step {step + 1} is {rows[row, 0]}" if len(bad) else f"after step {step + 1} weights are not finite"
    kept = f"The last good state is kept in {folder / CHECKPOINTS}" if is_begun(folder) else "No state had been saved yet"
    return UserError(f"epoch {epoch + 1}: {what}; {explain(experiment, records, epoch, batches)}. {kept}")


def explain(experiment: Experiment, records: Records, epoch: int, batches: range) -> str:
    """The keys of batches of an epoch (from 0), and the likely cause of a loss that is not finite.

    Which records a batch has is arithmetic (`order.order_of`), so nothing is carried through the training for this.
    """
    remote = experiment.sampling == "uniform" and experiment.read == "auto" and storage.is_remote(records.directory)
    if experiment.read == "sequential" or remote:
        return "which records were read cannot be told when they are read in sequence. " + _settings(experiment)
    drawn = order.weights(records, "train", experiment.sampling)
    ordered, _, weights = order.order_of(records.count("train"), experiment.batch_size, experiment.seed, epoch, drawn)
    of_them = slice(batches.start, batches.stop)
    numbers = ordered[of_them][weights[of_them] > 0]
    found = {int(number): _extreme(experiment, records, int(number)) for number in numbers}
    keys = [records.sample("train", number)["key"] for number in found]
    shown = ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")
    number, (distance, where) = max(found.items(), key=lambda item: item[1][0])
    if distance > EXTREME:
        key = records.sample("train", number)["key"]
        cause = f"{where} of {key} is {distance:.3g} standard deviations off its mean; leave that patch out of the records"
    else:
        cause = f"no value is more than {distance:.0f} standard deviations off its band's mean, so " + _settings(experiment)
    return f"its records: {shown}. Likely cause: {cause}"


def _settings(experiment: Experiment) -> str:
    half = " or --mixed_precision=bfloat16, whose range is that of float32," if experiment.mixed_precision == "float16" else ""
    return f"--learning_rate={experiment.learning_rate:g} is too high: lower it, or try --clip_norm=1{half} in a new --run_dir"


def _extreme(experiment: Experiment, records: Records, number: int) -> tuple[float, str]:
    """The largest distance of a record's values from the mean of their band, in standard deviations, and where it is."""
    sample, found = records.sample("train", number), [(0.0, "")]
    for name, sensor in assemble.sensors(experiment, records).items():
        for band in sensor.bands:
            values = sample[name][..., records.sensors[name].index((band,))[0], :, :].astype(np.float64)
            values = values[~np.isnan(values)] if sensor.nodata is None else values[values != sensor.nodata]
            statistics = records.statistics[name][band]
            if values.size and statistics["mean"] is not None:
                distance = np.abs(values - statistics["mean"]).max() / max(statistics["std"], 1e-12)
                found.append((float(np.nan_to_num(distance, nan=np.inf, posinf=np.inf)), f"{name} {band}"))
    return max(found)
