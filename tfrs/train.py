"""Training: one explicit loop over `strategy.run`, with everything needed to go on after an interruption."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfrs import assemble, checkpoints, divergence, evaluate, freezing, metrics, storage, transfer, waiting
from tfrs.board import Board, write_settings
from tfrs.epoch import calls_of, check_steps, steps_of
from tfrs.errors import UserError
from tfrs.experiment import CHECKPOINTS, SEGMENT, Experiment, is_begun, is_finished, open_run, place_run
from tfrs.export import export
from tfrs.history import History
from tfrs.progress import progress
from tfrs.records import Records
from tfrs.segmentation import Segmentation
from tfrs.steps import averaged, make_train_steps, share_batch_statistics
from tfrs.tasks import Task
from tfrs.termination import Terminated, deferred

TENSORBOARD = "tensorboard"
WARM_UP, PROFILED = 5, 3  # calls of an epoch before a profile, and in it
MONITOR = "average_f1"  # of the validation split; not its loss, which the padding of Keras would enter


def run(experiment: Experiment, kind: str = "classify") -> dict[str, float]:
    """Train, evaluate on test and export; continue where the same call was interrupted.

    Returns:
        The scores of `report.json` that are single numbers.

    Raises:
        UserError: Settings that do not fit each other, the records or the devices; a loss that is not finite.
    """
    if (experiment.task == Segmentation.name) != (kind == SEGMENT):
        raise UserError(f"--task={experiment.task} is not for this command: segmentation is python -m experiments.{SEGMENT}'s")
    experiment = place_run(experiment, kind)
    strategy = assemble.devices(experiment)
    records = assemble.records(experiment)
    for split in ("train", "val"):
        if split not in records.splits:
            raise UserError(f"{records.directory} has no {split} split; build records with --val_fraction or --split_file")
    task = assemble.task(experiment, records)
    # A run that is continued has weights of its own; what it started from may be gone.
    begun = is_begun(Path(experiment.run_dir))
    with strategy.scope():
        model = assemble.model(experiment, records, task, pretrained=not begun and not experiment.init_from)
        if experiment.init_from and not begun:
            inputs = assemble.sensors(experiment, records)
            channels = {name: sensor.channels for name, sensor in inputs.items()}
            network = transfer.Network(model, experiment, channels, task.scheme.classes)
            left = transfer.start_from(Path(experiment.init_from), network)
            print(f"weights of {experiment.init_from}" + (f"; not for {'; '.join(left)}" if left else ""))
        optimizer = assemble.optimizer(experiment, len(steps_of(experiment, records.count("train"))))
        optimizer.build(model.trainable_variables)
    # Wrong settings show before a folder is made.
    check_steps(experiment, records.count("train"))
    encoder = freezing.encoder(experiment, task, model)
    for split in ("train", "val"):
        images, *_ = assemble.batches(experiment, records, task, split, training=split == "train").element_spec
        _check_sizes(model, images)
    experiment, folder = open_run(experiment, kind)
    if is_finished(folder):
        print(f"run {folder} is finished already: nothing to train")
    else:
        if records.selection:
            print(f"records chosen ({records.selection}): {', '.join(f'{records.count(s):,} {s}' for s in records.splits)}")
        if experiment.read == "auto" and storage.is_remote(records.directory):
            print(f"{records.directory} is on a network file system: reading in sequence (--read=random maps it all the same)")
        print(f"run {folder}: {model.count_params():,} parameters on {strategy.num_replicas_in_sync} device(s)")
        fit(experiment, folder, records, task, model, optimizer, strategy, encoder)
        best = evaluate.best_model(experiment, folder, records, task)
        scores = evaluate.report(experiment, folder, records, task, best, evaluate.final_split(records))
        write_settings(folder / TENSORBOARD, experiment, scores)
        export(experiment, folder, records, task, best, scores)
    scores = evaluate.read_report(folder)
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def _check_sizes(model: keras.Model, images: dict[str, tf.TensorSpec]) -> None:
    for tensor in model.inputs:
        if not tf.TensorShape(tensor.shape).is_compatible_with(images[tensor.name].shape):
            size, given = (f"{s[2]}x{s[3]}" for s in (tensor.shape, images[tensor.name].shape))
            raise UserError(f"{model.name} takes patches of {size} only, not {given}; --augment=crop:SIZE makes them smaller")


def fit(
    experiment: Experiment,
    folder: Path,
    records: Records,
    task: Task,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    strategy: tf.distribute.Strategy,
    encoder: Sequence[keras.Layer] = (),
) -> None:
    """Run the epochs that are left, until the last or until `patience` epochs brought no better score.

    Args:
        encoder: Layers that stay as they are in the first epochs.
    """
    state = checkpoints.begin()
    variables = model.trainable_variables
    fresh = [variable.numpy() for variable in (optimizer.variables if encoder else ())]
    manager = checkpoints.manage(folder, model, optimizer, state)
    plan = np.array(steps_of(experiment, records.count("train")), np.int32)
    if checkpoints.restore(manager, folder):
        best = f" (best {MONITOR} {float(state.best):.4f} of epoch {int(state.best_epoch)})" if int(state.best_epoch) else ""
        print(f"continuing after {_place(state, plan)}{best}")

    ahead, first = divmod(int(plan[: int(state.step)].sum()), int(plan.sum()))
    start = {"epoch": int(state.epoch) + ahead, "step": first}
    batches = assemble.batches(experiment, records, task, "train", training=True, **start)
    train = strategy.experimental_distribute_dataset(batches)

    def trace():
        freezing.keep(encoder, int(state.epoch) < experiment.freeze_encoder)
        if encoder and int(state.epoch) >= experiment.freeze_encoder:
            freezing.shift(optimizer, assemble.learning_rate(experiment, len(plan)), experiment.freeze_encoder * len(plan))
        train_steps = make_train_steps(
            *(strategy, model, optimizer, task),
            decay=experiment.decay,
            clip_norm=experiment.clip_norm,
            accumulate=experiment.accumulate,
            jit_compile=experiment.jit_compile,
            deterministic=experiment.deterministic,
        )
        # For any number of steps, with an iterator of no epoch.
        return train_steps.get_concrete_function(
            iter(strategy.experimental_distribute_dataset(batches.take(0))),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, 3], tf.float64),
        )

    train_steps = trace()
    measure = evaluate.make_measure(strategy, model, task)
    val = assemble.batches(experiment, records, task, "val")
    history = History(folder / "history.csv", int(state.epoch))
    profile = folder / TENSORBOARD if experiment.profile else None

    def save():
        share_batch_statistics(strategy, model)
        with checkpoints.storing(folder):
            manager.save()

    def check():
        if signals:
            raise Terminated

    def train_epoch(label):
        nonlocal profile, train_steps
        if encoder and (int(state.epoch), int(state.step)) == (experiment.freeze_encoder, 0):
            freezing.begin_anew(optimizer, fresh)
            train_steps = trace()
        begun = time.perf_counter()  # before the iterator, which may wait for the first batch
        iterator = iter(train) if int(state.step) < len(plan) else None
        with progress(total=len(plan), initial=int(state.step), unit="steps", desc=label, leave=False) as bar:
            while (step := int(state.step)) < len(plan):
                calls = calls_of(experiment, plan[step:], step)
                rows = _train_calls(train_steps, iterator, calls, bar, signals, profile)
                if not np.isfinite(rows).all() or not all(np.isfinite(value).all() for value in model.get_weights()):
                    raise _diverged(experiment, folder, records, int(state.epoch), step, rows)
                checkpoints.advance(state, rows, -begun + (begun := time.perf_counter()))
                profile = None
                if experiment.save_every_steps and int(state.step) % experiment.save_every_steps == 0:
                    save()
                check()

    def finish_epoch():
        number = int(state.epoch) + 1
        with averaged(optimizer, variables):
            matrix, val_loss = measure(val, check)
            scores = metrics.scores(matrix, task.scheme.classes)
            if better := scores[MONITOR] > float(state.best):
                with checkpoints.storing(folder):
                    checkpoints.save_weights(model, folder / CHECKPOINTS / evaluate.BEST)
                    board.patches(number, val, model)
        loss, size, waited, seconds = state.sums.numpy()
        row = {
            "epoch": number,
            "loss": loss / size,
            "val_loss": val_loss,
            **{f"val_{name}": scores[name] for name in ("average_f1", "overall_f1", "overall_accuracy")},
            "learning_rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
            "seconds": seconds,
            "images_per_second": records.count("train") / seconds,
            "waiting": waited / seconds,
        }
        checkpoints.begin_epoch(state, scores[MONITOR] if better else None)
        since = max(int(state.best_epoch), int(state.lowered))
        if experiment.schedule == "plateau" and number - since >= experiment.plateau_patience:
            optimizer.learning_rate = row["learning_rate"] * experiment.plateau_factor
            state.lowered.assign(number)
        with checkpoints.storing(folder):
            history.append(row)
            board.epoch(row, scores)
            manager.save()
        return row

    with Board(folder / TENSORBOARD, task, assemble.sensors(experiment, records)) as board, deferred() as signals:
        board.graph(train_steps.graph)
        try:
            while int(state.epoch) < experiment.epochs and int(state.epoch) - int(state.best_epoch) < experiment.patience:
                before, used = state.sums.numpy(), waiting.usage()
                train_epoch(f"epoch {int(state.epoch) + 1}/{experiment.epochs}")
                used = waiting.usage() - used
                _, _, waited, used[0] = state.sums.numpy() - before
                share_batch_statistics(strategy, model)
                row = finish_epoch()
                print(
                    f"epoch {row['epoch']}/{experiment.epochs}: loss {row['loss']:.4f}, val loss {row['val_loss']:.4f}, "
                    f"val average F1 {row['val_average_f1']:.4f}, overall F1 {row['val_overall_f1']:.4f}, "
                    f"{row['images_per_second']:.1f} images/s, best epoch {int(state.best_epoch)}",
                    flush=True,
                )
                if line := waiting.advice(experiment, waited, used):
                    print(line, flush=True)
                check()
        except Terminated:
            save()
            place = _place(state, plan)
            raise Terminated(f"SIGTERM: the state after {place} is saved; run the same command again to continue") from None


def _place(state: checkpoints.State, plan: np.ndarray) -> str:
    step = f" and step {int(state.step)} of {len(plan)} of the next" if int(state.step) else ""
    return f"epoch {int(state.epoch)}{step}"


def _train_calls(
    train_steps: Callable,
    iterator: Iterator,
    calls: list[np.ndarray],
    bar: tqdm,
    signals: Sequence[int] = (),
    profile: Path | None = None,
) -> np.ndarray:
    """Rows (steps, 3) of what `train_steps` returned, to the end or soon after a signal or a sum that is not finite.

    Args:
        profile: Write a profile of a few calls there.
    """
    found, rows = [], tf.zeros((1, 3), tf.float64)
    first = max(0, min(WARM_UP, len(calls) - PROFILED))
    for number, batches in enumerate(calls):
        if profile and number == first:
            tf.profiler.experimental.start(str(profile))
        with tf.profiler.experimental.Trace("train", step_num=number, _r=1):
            before, rows = rows, train_steps(iterator, tf.constant(batches), rows)
        # Never further ahead of the device than one call, and without a wait: this call began when that was done.
        found.append(before.numpy())
        if signals or not np.isfinite(found[-1]).all():
            break
        bar.update(len(batches))
        if profile and number == min(first + PROFILED, len(calls)) - 1:
            rows.numpy()
            tf.profiler.experimental.stop()
    return np.concatenate([*found[1:], rows.numpy()])


def _diverged(experiment: Experiment, folder: Path, records: Records, epoch: int, first: int, rows: np.ndarray) -> UserError:
    """What to tell of an epoch (from 0) whose loss is not finite from some step on, or whose last step spoilt the weights.

    Args:
        first: Number of the step of the first row.
    """
    bad = np.flatnonzero(~np.isfinite(rows[:, 0]))
    row = int(bad[0]) if len(bad) else len(rows) - 1
    step = first + row
    plan = steps_of(experiment, records.count("train"))
    batches = range(sum(plan[:step]), sum(plan[: step + 1]))
    what = f"the loss of step {step + 1} is {rows[row, 0]}" if len(bad) else f"after step {step + 1} weights are not finite"
    kept = f"The last good state is kept in {folder / CHECKPOINTS}" if is_begun(folder) else "No state had been saved yet"
    return UserError(f"epoch {epoch + 1}: {what}; {divergence.explain(experiment, records, epoch, batches)}. {kept}")
