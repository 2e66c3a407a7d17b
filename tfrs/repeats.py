"""Scores of repeated runs: one row for all repetitions of a configuration."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES, CONFIDENCE = 10_000, 0.95
SHOWN = {
    "average_f1": "Average F1",
    "overall_f1": "Overall F1",
    "weighted_f1": "Weighted F1",
    "overall_accuracy": "Overall accuracy",
    "kappa": "Kappa",
}


@dataclass(frozen=True)
class Spread:
    """A score over repetitions: mean, standard deviation (n - 1), interval of the mean, lowest and highest value.

    One value has neither deviation nor interval.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    min: float
    max: float


def spread(values: list[float]) -> Spread:
    """The 95 % interval is that of a percentile bootstrap with a fixed seed: with few values it is too narrow."""
    low = high = std = None
    if len(values) > 1:
        std = float(np.std(values, ddof=1))
        means = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
        low, high = map(float, np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    return Spread(float(np.mean(values)), std, low, high, min(values), max(values))


@dataclass(frozen=True)
class Row:
    """A configuration: its settings, the number of its runs, and each of their scores."""

    settings: Mapping[str, str]
    runs: int
    scores: Mapping[str, Spread]


def rows(runs: Iterable[tuple[Mapping[str, str], Mapping[str, float]]]) -> list[Row]:
    """A row for each configuration, from the settings and scores of runs; runs of the same settings are repetitions."""
    groups: dict[tuple, list[Mapping[str, float]]] = {}
    for settings, scores in runs:
        groups.setdefault(tuple(settings.items()), []).append(scores)
    return [
        Row(dict(settings), len(found), {name: spread([scores[name] for scores in found]) for name in found[0]})
        for settings, found in groups.items()
    ]


def to_csv(table: list[Row]) -> str:
    """All numbers, a line per configuration."""
    flat = [
        {**row.settings, "runs": row.runs}
        | {f"{name}_{part}": value for name, score in row.scores.items() for part, value in vars(score).items()}
        for row in table
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in flat for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def to_markdown(table: list[Row]) -> str:
    """The main scores in per cent: mean, standard deviation, and interval of the mean over the runs of a configuration."""
    settings = list(table[0].settings)
    scores = [name for name in SHOWN if any(name in row.scores for row in table)]
    lines = [
        f"| {' | '.join([*settings, 'Runs', *(SHOWN[name] for name in scores)])} |",
        "|---" * len(settings) + "|---:" * (1 + len(scores)) + "|",
    ]
    for row in table:
        cells = [*row.settings.values(), str(row.runs), *(_cell(row.scores.get(name)) for name in scores)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(score: Spread | None) -> str:
    if score is None:
        return "-"
    if score.std is None:
        return f"{100 * score.mean:.1f}"
    return f"{100 * score.mean:.1f} ± {100 * score.std:.1f} ({100 * score.low:.1f} to {100 * score.high:.1f})"
