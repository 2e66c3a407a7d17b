"""What records are built from, as their manifest states it, and how it differs from what is asked for."""

import hashlib
import json
import textwrap
from dataclasses import asdict
from pathlib import Path

from tfrecords_builder import lock, metadata
from tfrs import records
from tfrs.datasets.base import Dataset
from tfrs.errors import UserError

FILE = "spec.json"  # of an unfinished build, in its build folder


def head(dataset: Dataset, splits: dict[str, list[str]], shard_mb: float, options: dict) -> dict:
    """The part of the manifest that is known before a patch is read."""
    digests = {split: hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16] for split, keys in splits.items()}
    counts = {split: len(keys) for split, keys in splits.items()}
    stated = {
        "format": records.FORMAT,
        "dataset": dataset.name,
        "version": dataset.version,
        "spec": {"shard_mb": shard_mb, **asdict(dataset), **options, "patches": counts, "keys": digests},
        "sensors": {sensor.name: vars(sensor) for sensor in dataset.sensors},
        "schema": dataset.schema.to_json(),
    }
    return json.loads(json.dumps(stated))  # as it will be read again to be compared: tuples are lists


def differences(found: dict, wanted: dict) -> str:
    """In what the head of `wanted` differs from what was found, in words; empty where it does not."""
    spec, other = found["spec"], wanted["spec"]
    names = [name for name in {**spec, **other} if spec.get(name) != other.get(name)]
    # Other options lead to other keys: where there is such a cause, it says enough.
    names = [name for name in names if name not in ("keys", "patches")] or names
    pairs = [(name, *(textwrap.shorten(str(s.get(name)), 200) for s in (spec, other))) for name in names if name != "keys"]
    lines = [f"{name}: {there} there, {asked if asked != there else 'another'} asked for" for name, there, asked in pairs]
    if names == ["keys"]:
        splits = [split for split in spec["keys"] if spec["keys"][split] != other["keys"][split]]
        lines.append(f"keys: as many patches of {', '.join(splits)}, but others or in another order")
    for part in ("format", "sensors", "schema"):
        lines += _leaves(part, found.get(part), wanted[part])
    return "; ".join(lines)


def _leaves(name: str, found, wanted) -> list[str]:
    """A line for every innermost value that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [line for key in {**found, **wanted} for line in _leaves(f"{name}.{key}", found.get(key), wanted.get(key))]
    if found == wanted:
        return []
    if isinstance(found, list) and isinstance(wanted, list) and set(found) != set(wanted):  # of names: those that differ
        found, wanted = [v for v in found if v not in wanted], [v for v in wanted if v not in found]
    there, asked = (textwrap.shorten(str(value), 200) for value in (found, wanted))
    return [f"{name}: {there} there, {asked} asked for"]


def refuse_other(directory: Path, found: dict, wanted: dict) -> None:
    """Raise a `UserError` that spells out in what the records of a folder are not those asked for."""
    if difference := differences(found, wanted):
        raise UserError(
            f"{directory} holds other records ({difference}); give --overwrite to replace them, or another --output"
        )


def begin(folder: Path, wanted: dict) -> None:
    """State in its build folder what a build is made from, or see that it goes on with the same."""
    path = folder / FILE
    with lock.turn(folder / f"{FILE}.{lock.LOCK}"):
        if path.exists():
            try:
                found = json.loads(path.read_text())
            except ValueError as error:
                raise UserError(f"{path}: damaged ({error}); build again with --overwrite") from error
            refuse_other(folder.parent, found, wanted)
        else:
            metadata.write_json(path, wanted)
