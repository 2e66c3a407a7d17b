"""Locks of files, which the system releases when their owner dies."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tfrs.errors import UserError


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

    The lock is `flock`'s on `<path without suffix>.lock.tmp`: a file left behind is no lock. On a file system without locks
    nobody is refused.

    Raises:
        UserError: Another process is in the block, or nothing can be written there.
    """
    lock = path.with_suffix(".lock.tmp")
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
