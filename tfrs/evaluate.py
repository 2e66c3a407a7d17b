"""Exact evaluation of a model on a split, and the report of a run."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfrs import assemble, metrics, plots, selection
from tfrs.errors import UserError
from tfrs.experiment import CHECKPOINTS, REPORT, Experiment, read_run
from tfrs.gallery import gallery
from tfrs.records import Records
from tfrs.steps import distribute
from tfrs.storage import write_text
from tfrs.tasks import Task

BEST = "best.weights.h5"


def make_measure(strategy: tf.distribute.Strategy, model: keras.Model, task: Task) -> Callable:
    """A function from a dataset to its confusion matrix (float64) and mean loss; samples of weight 0 count in neither.

    The loss is the mean over the patches, or over the valid pixels of dense labels. Each of several processes gives its part
    of the dataset, and gets the result of the whole.
    """

    def replica_step(images, target, weight):
        logits = model(images, training=False)
        sizes = weight * task.size(target)
        loss = tf.reduce_sum(task.loss(target, logits) * sizes)
        return task.confusion(target, logits, weight), tf.cast(loss, tf.float64), tf.cast(tf.reduce_sum(sizes), tf.float64)

    @tf.function
    def step(batch):
        values = strategy.run(replica_step, batch)
        return [strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for value in values]

    def measure(dataset: tf.data.Dataset, between: Callable[[], None] = lambda: None) -> tuple[np.ndarray, float]:
        totals, batches = [0.0, 0.0, 0.0], distribute(strategy, dataset)
        for _ in range(len(dataset)):
            totals = [total + value for total, value in zip(totals, step(next(batches)), strict=True)]
            between()
        matrix, loss, weight = (np.asarray(total) for total in totals)
        return matrix, float(loss / weight)

    return measure


def final_split(records: Records) -> str:
    """The split of the final report: test, or val where there is no test split."""
    return "test" if "test" in records.splits else "val"


def best_model(experiment: Experiment, folder: Path, records: Records, task: Task) -> keras.Model:
    """The model with the weights of the best epoch.

    Raises:
        UserError: There are none yet, or they do not fit the records.
    """
    path = folder / CHECKPOINTS / BEST
    if not path.exists():
        raise UserError(f"{path}: no such file; the run has not finished an epoch yet")
    keras.config.set_dtype_policy("float32")  # what is scored and exported must run anywhere
    model = assemble.model(experiment, records, task, pretrained=False)
    try:
        model.load_weights(path)
    except ValueError as error:
        raise UserError(f"{path} does not fit {records.directory}: the records have other bands or classes") from error
    return model


def run(run_dir: Path, split: str, where: Iterable[str] = ()) -> dict:
    """Evaluate a run's best weights on a split, or on those of its records for which conditions hold, and write the report."""
    experiment = read_run(run_dir)
    records = selection.where(assemble.records(experiment), where)
    task = assemble.task(experiment, records)
    assemble.prepare(experiment)
    return report(experiment, run_dir, records, task, best_model(experiment, run_dir, records, task), split, bool([*where]))


def report(
    experiment: Experiment, folder: Path, records: Records, task: Task, model: keras.Model, split: str, part: bool = False
) -> dict:
    """Write `report.json`, `report.md` and figures; for another split than the final one with `-<split>` in the names.

    Args:
        part: The records are not all of the split, which the names say with `-part`.
    """
    dataset = assemble.batches(experiment, records, task, split)
    matrix, loss = make_measure(tf.distribute.get_strategy(), model, task)(dataset)
    unit = "pixels" if task.dense else "patches"
    scores = {
        "model": experiment.model,
        "input": experiment.input,
        "task": task.name,
        "records": str(records.directory),
        **({"selection": records.selection} if records.selection else {}),
        "split": split,
        "patches": records.count(split),
        "unit": unit,
        **({"ignored_classes": task.ignored} if task.dense else {}),
        "loss": loss,
        **task_scores(matrix, task),
    }
    per_class = {name: row for head in heads(scores) for name, row in head["per_class"].items()}
    suffix = ("" if split == final_split(records) else f"-{split}") + "-part" * part
    title = f"{experiment.model}, {experiment.input}, {split}"
    plots.save(gallery(dataset, model, task, assemble.sensors(experiment, records)), folder / f"patches{suffix}.png")
    plots.save(plots.confusion(matrix, task.scheme, title, unit), folder / f"confusion{suffix}.png")
    plots.save(plots.class_scores(per_class, task.scheme, title), folder / f"f1{suffix}.png")
    figures = [f"\n![{name}]({name}{suffix}.png)\n" for name in ("confusion", "f1", "patches")]
    write_text(folder / f"report{suffix}.md", to_markdown(scores) + "".join(figures))
    write_text(folder / REPORT.replace(".json", f"{suffix}.json"), json.dumps(scores, indent=1) + "\n")
    return scores


def task_scores(matrix: np.ndarray, task: Task) -> dict:
    """What `metrics.scores` gives for the first head of the task, the main one, with its scheme and confusion matrix.

    Where there are several, `heads` has the same for each, from its block of the matrix.
    """
    found, start = {}, 0
    for name, scheme in task.heads.items():
        block = slice(start, start := start + len(scheme.classes))
        part = matrix[block, block] if len(task.heads) > 1 else matrix
        found[name] = {"scheme": scheme.name, **metrics.scores(part, scheme.classes), "confusion_matrix": part.tolist()}
    return next(iter(found.values())) | ({"heads": found} if len(found) > 1 else {})


def heads(scores: dict) -> list[dict]:
    """The scores of each head of a report, the main one first."""
    return [*scores.get("heads", {"": scores}).values()]


def read_report(folder: Path) -> dict:
    return json.loads((folder / REPORT).read_text())


def to_markdown(scores: dict) -> str:
    """The report in the form of Schmitt & Wu 2021, Table 4, and of Wenger et al. 2022, Tables 3 and 4: a row per class, then
    the summary scores, in per cent.
    """
    dense = scores["unit"] == "pixels"

    def percent(value) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    head = f"# {scores['model']}, {scores['input']}, {scores['split']}\n\n"
    chosen = f" ({scores['selection']})" if "selection" in scores else ""
    head += f"{scores['patches']:,} patches of `{scores['records']}`{chosen}, task {scores['task']}. Scores in per cent.\n\n"
    columns = ["f1", *(["iou"] if dense else []), "precision", "recall"]
    titles = {"f1": "F1", "iou": "IoU", "precision": "Precision", "recall": "Recall"}
    rows = [f"| Class | {'Pixels' if dense else 'Number'} | {' | '.join(titles[column] for column in columns)} |"]
    rows.append("|---|---:" + "|---:" * len(columns) + "|")
    for name, row in (pair for part in heads(scores) for pair in part["per_class"].items()):
        number = f"{row['support']:,}" if row["support"] else "-"
        rows.append(f"| {name} | {number} | {' | '.join(percent(row[column]) for column in columns)} |")
    labels = {
        "average_f1": "Average F1 (macro)",
        "overall_f1": "Overall F1 (micro)",
        "weighted_f1": "Weighted F1 (by support)",
        "overall_accuracy": "Overall accuracy",
        "average_accuracy": "Average accuracy (mean recall)",
        "mean_iou": "Mean IoU",
        "kappa": "Kappa",
    }
    parts = heads(scores)
    rows += ["", f"| Score | {' | '.join(part['scheme'] for part in parts)} |", "|---" + "|---:" * len(parts) + "|"]
    rows += [
        f"| {label} | {' | '.join(percent(part[name]) for part in parts)} |" for name, label in labels.items() if name in scores
    ]
    absent = "; ".join(name for part in parts for name in part["absent_classes"])
    note = f"\nAbsent from the reference, left out of the averages over classes: {absent}.\n" if absent else ""
    if ignored := "; ".join(scores.get("ignored_classes", ())):
        note += f"\nIgnored, neither learned nor scored: {ignored}.\n"
    if scores["task"] == "multi_label":
        note += "\nOverall accuracy is the share of right yes/no decisions over all patches and classes.\n"
    return head + "\n".join(rows) + f"\n{note}"
