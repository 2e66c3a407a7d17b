"""Which record comes when: record numbers of each batch of an epoch, by arithmetic on seed and epoch alone."""

from collections.abc import Callable

import numpy as np

from tfrs import folds
from tfrs.errors import UserError, unknown
from tfrs.records import Records

# From the index of a split to how often (N,) each record is drawn, in proportion.
Weights = Callable[[np.ndarray], np.ndarray]
SAMPLINGS = ("uniform", "balanced")


def weights(records: Records, split: str, sampling: str | Weights) -> np.ndarray | None:
    """How often (N,) each record of a split is drawn, in proportion; None where each comes once.

    Args:
        sampling: `uniform`; `balanced`: each class as often as the others, a record being of the class of `folds.strata`; or
            a function of the index (columns: `record_index.index_table`).

    Raises:
        UserError: The name is unknown, there are no labels, or the weights will not do.
    """
    if sampling == "uniform":
        return None
    table = records.index(split)
    if callable(sampling):
        found = np.asarray(sampling(table), float)
        if found.shape != (len(table),) or not np.all(np.isfinite(found) & (found >= 0)) or not found.any():
            raise UserError(f"sampling weights of {len(table)} records must be as many numbers from 0, not all of them 0")
        return found
    if sampling not in SAMPLINGS:
        raise unknown("sampling", sampling, SAMPLINGS)
    if not folds.label(records.schema):
        raise UserError(f"{records.directory}: the records have no labels that --sampling={sampling} could go by")
    _, classes, sizes = np.unique(folds.strata(records.schema, table.__getitem__), return_inverse=True, return_counts=True)
    return 1 / sizes[classes]


def order_of(
    count: int, size: int, seed: int | None, epoch: int, drawn: np.ndarray | None = None, step: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Record numbers, turns and weights (batches, size) of an epoch; the last batch is filled with records that weigh 0.

    A turn counts how often a record has come before in the epoch: always 0 where each comes once.

    Args:
        seed: None: in stored order.
        drawn: As of `weights`.
        step: Number of the first batch wanted.
    """
    if seed is None:
        numbers = np.arange(count)
    else:
        rng = np.random.default_rng([seed, epoch])
        numbers = rng.permutation(count) if drawn is None else draw(drawn, rng)
    turns = np.zeros(count, np.int64) if drawn is None else _turns(numbers)
    places = np.arange(step * size, -(-count // size) * size).reshape(-1, size)
    return numbers[places % count], turns[places % count], places < count


def draw(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many record numbers as there are weights (N,), in random order: each N times its share, rounded up or down.

    Systematic sampling (Madow 1949): what is drawn is as near to the weights as whole numbers can be, in every epoch.
    """
    count = len(weights)
    order = rng.permutation(count)
    order = order[np.argsort(weights[order], kind="stable")]  # so that groups of equal weight get their share, too
    ends = np.cumsum(weights[order])
    at = np.searchsorted(ends, (np.arange(count) + rng.random()) * (ends[-1] / count), side="right")
    return rng.permutation(order[np.minimum(at, count - 1)])


def _turns(numbers: np.ndarray) -> np.ndarray:
    order = np.argsort(numbers, kind="stable")
    ordered, turns = numbers[order], np.empty_like(numbers)
    turns[order] = np.arange(len(numbers)) - np.searchsorted(ordered, ordered)
    return turns
