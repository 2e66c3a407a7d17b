"""SIGTERM, by which batch schedulers say that the time is over."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Terminated(Exception):
    """A SIGTERM has come, and the work is saved; commands print it as one line and exit with status 143."""


@contextlib.contextmanager
def deferred() -> Iterator[list[int]]:
    """Within the block SIGTERM ends nothing; it is put into the list, to be looked at where the work can be saved.

    In another thread than the main one, which alone gets signals, the list stays empty.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)
