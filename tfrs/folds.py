"""Folds for cross-validation, drawn from keys and labels alone; no record is written anew."""

from collections.abc import Callable

import numpy as np

from tfrs import selection
from tfrs.augment import seeds
from tfrs.errors import UserError
from tfrs.records import Records
from tfrs.schema import Schema


def split(records: Records, folds: int, fold: int, seed: int) -> Records:
    """The records of all splits, divided anew: `test` is this fold, `val` the next one (after the last the first), `train` the
    others.

    Statistics stay those of the manifest: of the training split of the build.

    Raises:
        UserError: There are fewer than three folds, fewer patches than folds, or no fold of this number.
    """
    check(folds)
    if not 0 <= fold < folds:
        raise UserError(f"--fold={fold}: the {folds} folds are numbered 0 to {folds - 1}")
    tables = [records.index(name) for name in records.splits]
    number = assign(records, lambda column: np.concatenate([table[column] for table in tables]), folds, seed)
    if number.max(initial=-1) < folds - 1:
        raise UserError(f"{records.directory}: {number.max(initial=-1) + 1} patches are too few for {folds} folds")
    parts = np.split(number, np.cumsum([len(table) for table in tables])[:-1])
    belong = {
        "train": lambda part: (part != fold) & (part != (fold + 1) % folds),
        "val": lambda part: part == (fold + 1) % folds,
        "test": lambda part: part == fold,
    }
    chosen = {
        name: {old: np.flatnonzero(of(part)) for old, part in zip(records.splits, parts, strict=True)}
        for name, of in belong.items()
    }
    said = f"fold {fold} of {folds} with seed {seed}"
    return records.with_splits(chosen, "; ".join(filter(None, [records.selection, said])))


def check(folds: int) -> None:
    """Raise a UserError where there are too few folds."""
    if folds < 3:
        raise UserError(f"--folds={folds}: give at least 3, one each to test, to choose the epoch, and to train on")


def assign(records: Records, column: Callable[[str], np.ndarray], folds: int, seed: int) -> np.ndarray:
    """Number of the fold (N,) of each record, the same in whatever order the records come.

    Patches are dealt out class by class (`strata`) in the order of a seeded hash of their names, so that each fold gets as
    many patches of a class as any other, or one more or less. Dates of one patch stay together.

    Args:
        column: From the name of a column of the index to its values (N, ...).
    """
    keys = column("key")
    order = np.argsort(keys)
    patches, first, patch = np.unique(selection.patches(records, keys[order]), return_index=True, return_inverse=True)
    stratum = strata(records.schema, column)[order][first] if label(records.schema) else np.zeros(len(patches))
    hashed = seeds.mix(seeds.of(patches.tolist(), seed, 0))
    dealt = np.empty(len(patches), np.int64)
    dealt[np.lexsort((hashed, stratum))] = np.arange(len(patches)) % folds
    number = np.empty(len(keys), np.int64)
    number[order] = dealt[patch]
    return number


def label(schema: Schema) -> str:
    """The column that says of which class a record is: its label, else labels, else fractions; empty where there is none."""
    kinds = ("label", "labels", "fractions")
    return next((name for kind in kinds for name, field in schema.fields.items() if field.kind == kind), "")


def strata(schema: Schema, column: Callable[[str], np.ndarray]) -> np.ndarray:
    """Class (N,) that each record stands for: its label or, of several classes present, the rarest of them all; -1: none."""
    values = column(name := label(schema))
    if schema.fields[name].kind == "label":
        return values
    present = values > 0
    rarest_first = np.argsort(present.sum(axis=0), kind="stable")
    return np.where(present.any(axis=1), rarest_first[present[:, rarest_first].argmax(axis=1)], -1)
