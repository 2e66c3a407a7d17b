"""k-fold cross-validation: a run for each fold, and one report of them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfrs import folds, sweep
from tfrs.experiment import REPORT, Experiment
from tfrs.repeats import SHOWN, spread
from tfrs.storage import write_text

FILE = "cross_validation"


def run(experiment: Experiment, kind: str, given: Mapping[str, str]) -> str:
    """Train and score every fold that is not done yet, then write `cross_validation.md` and `.json`; returns the first.

    Args:
        kind: Name of the command in `experiments` that trains.
        given: The settings to be handed to it.

    Raises:
        UserError: A fold failed, there are too few, or the folder belongs to another cross-validation.
    """
    folds.check(experiment.folds)
    bands = "".join(c if c.isalnum() or c == "_" else "-" for c in experiment.input)
    folder = Path(experiment.run_dir or f"runs/{kind}-{experiment.model}-{bands}-{experiment.folds}_folds")
    varied = {"fold": [str(fold) for fold in range(experiment.folds)]}
    fixed = {name: text for name, text in given.items() if name not in ("run_dir", "fold")}
    sweep.run(folder, kind, fixed, varied)
    found = [_scores(json.loads((each.folder / REPORT).read_text())) for each in sweep.runs_of(folder, varied)]
    table = {name: [scores[name] for scores in found] for name in found[0]}
    spreads = {name: vars(spread(values)) for name, values in table.items()}
    text = f"# {experiment.folds}-fold cross-validation of {experiment.model}, {experiment.input}\n\n{_markdown(table)}"
    write_text(folder / f"{FILE}.json", json.dumps({"folds": table, "over_folds": spreads}, indent=1) + "\n")
    write_text(folder / f"{FILE}.md", text)
    return text


def _scores(report: Mapping) -> dict[str, float]:
    """The main scores of a report, of each head where there are several."""
    heads = report.get("heads") or {"": {**report, "scheme": ""}}
    return {
        " ".join(filter(None, [label, head["scheme"]])): head[name]
        for head in heads.values()
        for name, label in SHOWN.items()
        if name in head
    }


def _markdown(table: Mapping[str, list[float]]) -> str:
    """A row per fold, then mean, standard deviation (n - 1) and best, in per cent."""
    rows = [[str(fold), *row] for fold, row in enumerate(zip(*table.values(), strict=True))]
    for label, of in (("mean", np.mean), ("std", lambda values: np.std(values, ddof=1)), ("best", np.max)):
        rows.append([label, *map(of, table.values())])
    lines = [f"| Fold | {' | '.join(table)} |", "|---" + "|---:" * len(table) + "|"]
    lines += [f"| {label} | {' | '.join(f'{100 * value:.2f}' for value in values)} |" for label, *values in rows]
    return "\n".join(lines) + "\n"
