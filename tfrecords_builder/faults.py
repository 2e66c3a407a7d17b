"""Faults of disks and sources, said so that they can be mended."""

import errno
import os
from pathlib import Path

from tfrs.errors import UserError


def storage(path: Path, error: OSError) -> UserError:
    """The error for records that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"{path}: the disk is full; free some space and run the same command again, it continues where it stopped"
        )
    return UserError(
        f"{error.filename or path}: {error.strerror}; mend it and run the same command again (finished shards are kept), "
        "or give another --output"
    )


def check_source(root: Path, path: str) -> None:
    """After a patch could not be read: see that this is not because the source as a whole is gone or closed.

    Args:
        path: The file that could not be read.

    Raises:
        UserError: It is; names the folder. One that is empty now counts as gone: that is how a lost mount looks.
    """
    if reason := _lost(root):
        raise _stopped(root, reason)
    try:
        os.stat(path)
    except PermissionError as error:  # of its folder: the rights of the file itself make no difference here
        raise _stopped(os.path.dirname(path), error.strerror) from error
    except OSError:
        pass


def _lost(root: Path) -> str:
    try:
        if root.is_dir():
            with os.scandir(root) as entries:
                return "" if any(entries) else "it is empty now"
        os.stat(root)
    except OSError as error:
        return error.strerror
    return ""


def _stopped(folder, reason: str) -> UserError:
    return UserError(
        f"{folder}: {reason}; the build stopped while it was reading there. Mend that and run the same command again "
        "(finished shards are kept)"
    )
