"""SIGTERM, by which batch schedulers say that the time is over."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

TERMINATED = 143  # status of a process that SIGTERM has ended, as shells have it


class Terminated(Exception):
    """A SIGTERM has come, and nothing is left half-done; commands print it as one line and exit with status `TERMINATED`."""


@contextlib.contextmanager
def raised(message: str) -> Iterator[None]:
    """Within the block, SIGTERM raises `Terminated`, so that what is unfinished is removed: by itself it ends Python at once.

    In the main thread only. A second SIGTERM does nothing.
    """

    def come(number, _):
        signal.signal(number, signal.SIG_IGN)
        raise Terminated(f"SIGTERM: {message}")

    before = signal.signal(signal.SIGTERM, come)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def deferred(tell: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Within the block SIGTERM ends nothing; it is put into the list, to be looked at where the work can be saved.

    In another thread than the main one, which alone gets signals, the list stays empty.

    Args:
        tell: Called as well, to pass it on.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def come(number, _):
        came.append(number)
        tell()

    before = signal.signal(signal.SIGTERM, come)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)
