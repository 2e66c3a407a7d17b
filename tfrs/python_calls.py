"""Python functions as steps of tf.data, which come to rest before the interpreter ends.

While it ends, Python 3.11 lets no other thread run again, and an iterator that is deleted then waits for ever for those of its
threads that are about to call Python: a program that left a loop over `dataset.repeat()` printed its last line and stayed.
"""

import atexit
import threading
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

REST = 0.05  # seconds without a call, after which there are no more: buffers are full

_lock = threading.Lock()
_running, _last, _ending = 0, 0.0, False


def numpy_function(function: Callable, inputs: Sequence, types: Sequence):
    """As `tf.numpy_function`; once the interpreter is about to end, the data end."""

    def call(*values):
        _count(1)
        try:
            if _ending:
                raise StopIteration
            return function(*values)
        finally:
            _count(-1)

    return tf.numpy_function(call, inputs, types)


def _count(change: int) -> None:
    global _running, _last
    with _lock:
        _running += change
        _last = time.monotonic()


@atexit.register
def _rest() -> None:
    global _ending
    _ending = True
    while _running or time.monotonic() - _last < REST:
        time.sleep(REST / 10)
