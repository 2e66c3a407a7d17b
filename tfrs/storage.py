"""Files that are either whole or not there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, owner: str = "") -> Iterator[Path]:
    """A temporary name, `.tmp` appended, whose file takes the place of `path` when the block ends well, and is removed else.

    Args:
        owner: Stands before `.tmp` where several processes may write the same file at once.
    """
    temporary = path.with_name(f"{path.name}{owner}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def beside(path: Path, name: str, suffix: str) -> Path:
    """`map_<name><suffix>` of `map.tif`."""
    return path.with_name(f"{path.stem}_{name}{suffix}")
