"""Files that are either whole or not there."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tfrs.errors import UserError

# Types of network file systems in /proc/mounts.
REMOTE = (
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "pvfs2",
    "smb3",
    "wekafs",
)


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


@contextlib.contextmanager
def replacing_together() -> Iterator[Callable[[Path], Path]]:
    """Yields `replacing` for several files: all take their places when the block ends well, the first of them last."""
    with contextlib.ExitStack() as stack:

        def place(path: Path) -> Path:
            if path.is_dir():  # found out before any takes its place
                raise UserError(f"{path}: is a folder, where a file is to be written; move it away")
            return stack.enter_context(replacing(path))

        yield place


def is_remote(directory: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a folder is on a network file system, where random reads cost a round trip each.

    By the type of the mount that holds it: `REMOTE`, or a file system in user space (`fuse.sshfs`, `fuse.gcsfuse` ...).
    Where there are no mounts to read (not Linux), it counts as local.
    """
    if not mounts.exists():
        return False
    kinds = {point.replace("\\040", " "): kind for _, point, kind, *_ in map(str.split, mounts.read_text().splitlines())}
    place = directory.resolve()
    kind = next(kinds[str(parent)] for parent in (place, *place.parents) if str(parent) in kinds)
    return kind in REMOTE or kind.startswith("fuse.")


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def beside(path: Path, name: str, suffix: str) -> Path:
    """`map_<name><suffix>` of `map.tif`."""
    return path.with_name(f"{path.stem}_{name}{suffix}")
