"""One build at a time writes to a folder; its tasks on several machines are one build."""

import contextlib
import datetime
import fcntl
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from tfrs.errors import UserError
from tfrs.locks import locked

LOCK = "lock"
_TOKEN = secrets.token_hex(4)  # containers of one machine may share its name and number their processes alike


def suffix() -> str:
    """Stands in temporary names, so that no two processes share one, on whatever machines they are."""
    return f".{socket.gethostname()}-{os.getpid()}-{_TOKEN}"


@contextlib.contextmanager
def hold(folder: Path, task: str = "") -> Iterator[None]:
    """Keep other builds away from a folder: all of them, or for a task of a build all but its other tasks.

    The lock is `flock`'s, which the system releases when its owner dies: a file left behind is no lock.

    Raises:
        UserError: Another build holds the folder; names its processes and their machines.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(folder / LOCK, fcntl.LOCK_SH if task else fcntl.LOCK_EX, task))
        if task:
            stack.enter_context(_locked(folder / f"{LOCK}-{task}", fcntl.LOCK_EX, task))
        yield


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait until no other process is in a block with this path."""
    with open(path, "a") as file:
        locked(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _locked(path: Path, kind: int, task: str) -> Iterator[None]:
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"{path.parent.parent}: another build is writing here ({_owners(path)})") from error
        except OSError as error:
            print(f"warning: {path}: no locks here ({error.strerror}); see that no other build writes there", file=sys.stderr)
        if kind == fcntl.LOCK_EX:
            since = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
            file.truncate(0)
            file.write(f"{task and f'task {task}, '}process {os.getpid()} on {socket.gethostname()} since {since}")
            file.flush()
        yield


def _owners(path: Path) -> str:
    """Who holds a lock, and which file keeps it; tasks that are at work hold that of the whole build together."""
    tasks = [task for task in sorted(path.parent.glob(f"{LOCK}-*")) if path.name == LOCK and _held(task)]
    owners = "; ".join(file.read_text() for file in tasks or [path])
    return f"{owners}; if that machine is lost, delete {path}"


def _held(path: Path) -> bool:
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False
