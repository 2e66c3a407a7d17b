"""Simulated patches kept apart from real ones: a folder of them says so in a marker file."""

import json
import os
import shutil
from pathlib import Path

from tfrs.datasets.base import Dataset
from tfrs.errors import UserError

MARKER = "SIMULATED.json"


def is_simulated(root: Path) -> bool:
    """Whether `root` is a folder that `simulate` filled."""
    return (root / MARKER).exists()


def simulate(dataset: Dataset, root: Path, n: int, seed: int) -> None:
    """Fill the folder `root` with `n` simulated patches, unless it holds just these already.

    The folder appears under its name only when it is complete.

    Raises:
        UserError: The folder holds other data, or cannot be written.
    """
    wanted = {"dataset": dataset.name, "patches": n, "seed": seed}
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        if not is_simulated(root):
            raise UserError(f"{root}: holds data that are not simulated; give another --input for --synthesize")
        found = json.loads((root / MARKER).read_text())
        if found != wanted:
            raise UserError(
                f"{root}: holds other simulated data ({_words(found)}; asked for: {_words(wanted)}); "
                "delete the folder or give another --input"
            )
        return
    temporary = Path(f"{root.absolute()}.tmp")
    try:
        if is_simulated(temporary):
            shutil.rmtree(temporary)  # of a run that was killed
        temporary.mkdir(parents=True)
        try:
            (temporary / MARKER).write_text(json.dumps(wanted) + "\n")
            dataset.synthesize(temporary, n, seed)
            os.replace(temporary, root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{error.filename or temporary}: {error.strerror or error}; the simulated data were not written"
        ) from error


def _words(marker: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in marker.items())
