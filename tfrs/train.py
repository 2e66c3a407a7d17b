"""Training: one explicit loop over `strategy.run`, with everything needed to go on after an interruption."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfrs import assemble, checkpoints, divergence, evaluate, freezing, hosts, waiting
from tfrs.board import Board, write_settings
from tfrs.epoch import calls_of
from tfrs.errors import UserError
from tfrs.experiment import CHECKPOINTS, SEGMENT, Experiment, is_finished, open_run, place_run
from tfrs.export import export
from tfrs.history import History
from tfrs.preparation import Training, describe, prepare
from tfrs.progress import progress
from tfrs.segmentation import Segmentation
from tfrs.steps import averaged, distribute, make_train_steps, share_batch_statistics
from tfrs.termination import Terminated, deferred

TENSORBOARD = "tensorboard"
WARM_UP, PROFILED = 5, 3  # calls of an epoch before a profile, and in it
MONITOR = "average_f1"  # of the validation split; not its loss, which the padding of Keras would enter


def run(experiment: Experiment, kind: str = "classify") -> dict[str, float]:
    """Train, evaluate on test and export; continue where the same call was interrupted.

    Returns:
        The scores of `report.json` that are single numbers; of several processes only for the first one.

    Raises:
        UserError: Settings that do not fit each other, the records or the devices; a loss that is not finite.
    """
    if (experiment.task == Segmentation.name) != (kind == SEGMENT):
        raise UserError(f"--task={experiment.task} is not for this command: segmentation is python -m experiments.{SEGMENT}'s")
    experiment = place_run(experiment, kind)
    folder, strategy = Path(experiment.run_dir), assemble.devices(experiment)
    first = hosts.is_first(strategy)
    with hosts.led_by_first(strategy):
        training = prepare(experiment, folder, strategy)
        with hosts.together(strategy):
            if first:
                open_run(experiment, kind)
        if is_finished(folder):
            print(f"run {folder} is finished already: nothing to train")
        else:
            describe(training)
            fit(training)
            with hosts.together(strategy):
                if first:
                    finish(training)
    scores = evaluate.read_report(folder) if first else {}
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def finish(training: Training) -> None:
    """Score and export the best epoch."""
    experiment, folder, records, task = training.experiment, training.folder, training.records, training.task
    best = evaluate.best_model(experiment, folder, records, task)
    scores = evaluate.report(experiment, folder, records, task, best, evaluate.final_split(records))
    write_settings(folder / TENSORBOARD, experiment, scores)
    export(experiment, folder, records, task, best, scores)


def fit(training: Training) -> None:
    """Run the epochs that are left, until the last or until `patience` epochs brought no better score."""
    experiment, folder, state, plan = training.experiment, training.folder, training.state, training.plan
    strategy, encoder, optimizer = training.strategy, training.encoder, training.optimizer
    fresh = [variable.numpy() for variable in (optimizer.variables if encoder else ())]
    if checkpoints.restore(training.manager, folder):
        best = f" (best {MONITOR} {float(state.best):.4f} of epoch {int(state.best_epoch)})" if int(state.best_epoch) else ""
        print(f"continuing after {training.place()}{best}")
    hosts.agree(strategy, {"restored states": training.place()})

    ahead, first = divmod(int(plan[: int(state.step)].sum()), int(plan.sum()))
    start = {"epoch": int(state.epoch) + ahead, "step": first, "worker": hosts.place(strategy)}
    batches = assemble.batches(experiment, training.records, training.task, "train", training=True, **start)
    iterator = distribute(strategy, batches)
    train_steps = _trace(training, iterator)
    measure = evaluate.make_measure(strategy, training.model, training.task)
    history = History(folder / "history.csv", int(state.epoch))
    shown = folder / TENSORBOARD if hosts.is_first(strategy) else None
    profile = shown if experiment.profile else None

    with Board(shown, training.task, assemble.sensors(experiment, training.records)) as board, deferred() as signals:
        board.graph(train_steps.graph)
        try:
            while int(state.epoch) < experiment.epochs and int(state.epoch) - int(state.best_epoch) < experiment.patience:
                if encoder and (int(state.epoch), int(state.step)) == (experiment.freeze_encoder, 0):
                    freezing.begin_anew(optimizer, fresh)
                    train_steps = _trace(training, iterator)
                before, used = state.sums.numpy(), waiting.usage()
                _train_epoch(training, train_steps, iterator, signals, profile)
                profile, used = None, waiting.usage() - used
                _, _, waited, used[0] = state.sums.numpy() - before
                share_batch_statistics(strategy, training.model)
                row = _finish_epoch(training, measure, history, board, signals)
                print(
                    f"epoch {row['epoch']}/{experiment.epochs}: loss {row['loss']:.4f}, val loss {row['val_loss']:.4f}, "
                    f"val average F1 {row['val_average_f1']:.4f}, overall F1 {row['val_overall_f1']:.4f}, "
                    f"{row['images_per_second']:.1f} images/s, best epoch {int(state.best_epoch)}",
                    flush=True,
                )
                if line := waiting.advice(experiment, waited, used):
                    print(line, flush=True)
                _check(training, signals)
        except Terminated:
            _save(training)
            done = f"SIGTERM: the state after {training.place()} is saved; run the same command again to continue"
            raise Terminated(done) from None


def _trace(training: Training, iterator: Iterator) -> Callable:
    """The training step for any number of steps, with the encoder as it is in the epoch that comes."""
    experiment, epoch, steps = training.experiment, int(training.state.epoch), len(training.plan)
    freezing.keep(training.encoder, epoch < experiment.freeze_encoder)
    if training.encoder and epoch >= experiment.freeze_encoder:
        rate = assemble.learning_rate(experiment, steps)
        freezing.shift(training.optimizer, rate, experiment.freeze_encoder * steps)
    train_steps = make_train_steps(
        *(training.strategy, training.model, training.optimizer, training.task),
        decay=experiment.decay,
        clip_norm=experiment.clip_norm,
        accumulate=experiment.accumulate,
        jit_compile=experiment.jit_compile,
        deterministic=experiment.deterministic,
    )
    rows = tf.TensorSpec([None, 3], tf.float64)
    return train_steps.get_concrete_function(iterator, tf.TensorSpec([None], tf.int32), rows)


def _save(training: Training) -> None:
    share_batch_statistics(training.strategy, training.model)
    with hosts.together(training.strategy):
        if hosts.is_first(training.strategy):
            with checkpoints.storing(training.folder):
                training.manager.save()


def _check(training: Training, signals: Sequence[int]) -> None:
    if hosts.anywhere(training.strategy, bool(signals)):
        raise Terminated


def _train_epoch(
    training: Training, train_steps: Callable, iterator: Iterator, signals: Sequence[int], profile: Path | None
) -> None:
    """Do the steps of an epoch that are left, and save where `--save_every_steps` says."""
    experiment, state, strategy, total = training.experiment, training.state, training.strategy, len(training.plan)
    begun = time.perf_counter()
    label, silent = f"epoch {int(state.epoch) + 1}/{experiment.epochs}", not hosts.is_first(strategy)
    with progress(total=total, initial=int(state.step), unit="steps", desc=label, leave=False, disable=silent) as bar:
        while (step := int(state.step)) < total:
            calls = calls_of(experiment, training.plan[step:], step)
            rows = _train_calls(strategy, train_steps, iterator, calls, bar, signals, profile)
            finite = np.isfinite(rows).all() and all(np.isfinite(value).all() for value in training.model.get_weights())
            if hosts.anywhere(strategy, not finite):
                raise divergence.error(experiment, training.folder, training.records, int(state.epoch), step, rows)
            checkpoints.advance(state, rows, -begun + (begun := time.perf_counter()))
            profile = None
            if experiment.save_every_steps and int(state.step) % experiment.save_every_steps == 0:
                _save(training)
            _check(training, signals)


def _train_calls(
    strategy: tf.distribute.Strategy,
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
        if hosts.anywhere(strategy, bool(signals) or not np.isfinite(found[-1]).all()):
            break
        bar.update(len(batches))
        if profile and number == min(first + PROFILED, len(calls)) - 1:
            rows.numpy()
            tf.profiler.experimental.stop()
    rows = np.concatenate([*found[1:], rows.numpy()])
    rows[:, 0] = hosts.total(strategy, rows[:, 0])
    return rows


def _finish_epoch(training: Training, measure: Callable, history: History, board: Board, signals: Sequence[int]) -> dict:
    """Score an epoch, keep its weights if they are the best, and count and save it; its row of `history.csv`."""
    experiment, state, optimizer, strategy = training.experiment, training.state, training.optimizer, training.strategy
    number, first = int(state.epoch) + 1, hosts.is_first(strategy)
    with averaged(optimizer, training.model.trainable_variables):
        matrix, val_loss = measure(training.val, lambda: _check(training, signals))
        scores = evaluate.task_scores(matrix, training.task)
        better = scores[MONITOR] > float(state.best)
        with hosts.together(strategy):
            if better and first:
                with checkpoints.storing(training.folder):
                    checkpoints.save_weights(training.model, training.folder / CHECKPOINTS / evaluate.BEST)
                    board.patches(number, training.val, training.model)
    loss, size, waited, seconds = state.sums.numpy()
    row = {
        "epoch": number,
        "loss": loss / size,
        "val_loss": val_loss,
        **{f"val_{name}": scores[name] for name in ("average_f1", "overall_f1", "overall_accuracy")},
        "learning_rate": float(keras.ops.convert_to_numpy(optimizer.learning_rate)),
        "seconds": seconds,
        "images_per_second": training.records.count("train") / seconds,
        "waiting": waited / seconds,
    }
    checkpoints.begin_epoch(state, scores[MONITOR] if better else None)
    since = max(int(state.best_epoch), int(state.lowered))
    if experiment.schedule == "plateau" and number - since >= experiment.plateau_patience:
        optimizer.learning_rate = row["learning_rate"] * experiment.plateau_factor
        state.lowered.assign(number)
    with hosts.together(strategy):
        if first:
            with checkpoints.storing(training.folder):
                history.append(row)
                board.epoch(row, scores)
                training.manager.save()
    return row
