"""Which patches go into which split, decided from names before any raster is opened."""

from pathlib import Path

import numpy as np

from tfrs.datasets.base import Dataset
from tfrs.errors import UserError
from tfrs.records import SPLITS


def plan(
    dataset: Dataset,
    root: Path,
    *,
    split_files: dict[str, str] | None = None,
    val_fraction: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Keys of every split in the seeded order in which they are written; splits without a patch are left out.

    Args:
        split_files: Per split a text file with one key per line (an extension is dropped), or `rest`; replaces the data
            set's own splits.
        val_fraction: Draw val at random from train and val together instead, as Schmitt & Wu 2021 did.
        limit: At most this many patches per split.

    Raises:
        UserError: A split file names an unknown patch, or a patch twice; or records of one patch are in two splits.
    """
    if getattr(dataset, "split", "") == "spatial" and (split_files or val_fraction is not None):
        raise UserError("--split=spatial keeps neighbours apart; it cannot stand beside --split_file or --val_fraction")
    if split_files:
        splits = _from_files(split_files, dataset.keys(root))
    else:
        splits = {split: dataset.index(root, split) for split in dataset.splits}
    if val_fraction is not None:
        if not 0 < val_fraction < 1:
            raise UserError(f"--val_fraction is {val_fraction:g}; give a number between 0 and 1")
        keys = splits.get("train", []) + splits.get("val", [])
        pool = _shuffled(list({dataset.patch(key) for key in keys}), seed, "val_fraction")
        val = set(pool[: round(val_fraction * len(pool))])
        splits |= {
            "val": [k for k in keys if dataset.patch(k) in val],
            "train": [k for k in keys if dataset.patch(k) not in val],
        }
    _check_apart(dataset, splits)
    return {split: _shuffled(keys, seed, split)[:limit] for split, keys in splits.items() if keys}


def _check_apart(dataset: Dataset, splits: dict[str, list[str]]) -> None:
    owner: dict[str, str] = {}
    for split, keys in splits.items():
        for patch in map(dataset.patch, keys):
            if owner.setdefault(patch, split) != split:
                raise UserError(
                    f"records of patch {patch} are in {owner[patch]} and in {split}; put all of them into one split"
                )


def _shuffled(keys: list[str], seed: int, purpose: str) -> list[str]:
    keys = sorted(keys)
    return [keys[i] for i in np.random.default_rng([seed, *purpose.encode()]).permutation(len(keys))]


def _from_files(files: dict[str, str], known: set[str]) -> dict[str, list[str]]:
    unknown_splits = sorted(set(files) - set(SPLITS))
    if unknown_splits:
        raise UserError(f"--split_file names split {', '.join(unknown_splits)}; the splits are {', '.join(SPLITS)}")
    splits: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split, file in files.items():
        if file == "rest":
            continue
        splits[split] = _read_list(file)
        for key in splits[split]:
            if key not in known:
                missing = sum(k not in known for k in splits[split])
                raise UserError(
                    f"{file}: {missing} of {len(splits[split])} patches are not in the data set, e.g. {key}; "
                    f"its names look like {min(known, default='none')}"
                )
            if key in owner:
                raise UserError(f"{file}: patch {key} stands twice ({owner[key]} and {split}); a patch has one split")
            owner[key] = split
    if list(files.values()).count("rest") > 1:
        raise UserError("--split_file gives the rest to several splits; a patch has one split")
    rest = sorted(known - owner.keys())
    return splits | {split: rest for split, file in files.items() if file == "rest"}


def _read_list(file: str) -> list[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; --split_file wants text files, one patch name per line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not a text file (a pickled list?); --split_file wants one patch name per line") from error
    return [Path(line.strip()).stem for line in lines if line.strip()]
