"""SIGTERM, by which batch schedulers say that the time is over."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator

TERMINATED = 143  # status of a process that SIGTERM has ended, as shells have it


class Terminated(BaseException):
    """A SIGTERM has come, and nothing is left half-done; commands print it as one line and exit with status `TERMINATED`.

    As KeyboardInterrupt no `Exception`, since it may come at any place (`immediate`).
    """


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


@contextlib.contextmanager
def immediate(message: str = "stopped; run the same command again to continue") -> Iterator[None]:
    """Within the block, which cleans up after itself, SIGTERM raises `Terminated` at once, as Ctrl-C does KeyboardInterrupt."""
    last = -math.inf

    def come(*_):
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > 1:  # `timeout` sends two, of which the second would break off the cleaning up
            raise Terminated(f"SIGTERM: {message}")

    before = signal.signal(signal.SIGTERM, come)
    try:
        yield
    finally:
        if last == -math.inf:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within the block SIGTERM and Ctrl-C have to wait, also for processes that are started in it."""
    numbers, came = (signal.SIGINT, signal.SIGTERM), []
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [signal.raise_signal(number) for number in came])
        if threading.current_thread() is threading.main_thread():
            # The mask is this thread's alone: through any other (those of NumPy) a signal would come all the same.
            for number in numbers:
                stack.callback(signal.signal, number, signal.signal(number, lambda number, _: came.append(number)))
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        stack.callback(signal.pthread_sigmask, signal.SIG_UNBLOCK, numbers)
        yield
