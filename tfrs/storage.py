"""Files that are either whole or not there."""

import contextlib
import errno
import fcntl
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


def locked(file, kind: int) -> bool:
    """Take a lock of `flock` on an open file: whether it was to be had. A file system without locks has them for all.

    Args:
        file: Open for writing if the lock is to be exclusive, for reading if it is to be shared: NFS insists on it.
    """
    try:
        fcntl.flock(file, kind)
    except (BlockingIOError, PermissionError):  # the second of some network file systems
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Within the block, other processes that come to it with the same path, whatever its suffix, are refused.

    The lock is `flock`'s on `<path without suffix>.lock`, which the system releases when its owner dies: a file left behind is
    no lock. On a file system without locks nobody is refused.

    Raises:
        UserError: Another process is in the block, or nothing can be written there.
    """
    lock = path.with_suffix(".lock")
    try:
        file = open(lock, "a")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        # A file that was removed by its owner, which ended just now, keeps nobody away.
        if not locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB) or not os.fstat(file.fileno()).st_nlink:
            raise UserError(f"{path}: another process is writing it; wait for it, or give another name")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


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
