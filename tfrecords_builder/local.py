"""Shards written by processes of this machine."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker

from tfrs.errors import UserError
from tfrs.progress import progress
from tfrs.termination import TERMINATED, Terminated, held, immediate


def run(work: Callable, tasks: list, done: int = 0, *, workers: int = 1) -> Iterator:
    """Call `work(task)` for every task of `tasks`; yields each when it is done.

    Args:
        done: Patches of an earlier call, for the progress bar.

    Raises:
        UserError: A worker died.
    """
    total = done + sum(len(task.keys) for task in tasks)
    with progress(total=total, initial=done, unit="patches", desc="writing") as bar:
        if workers == 1 or len(tasks) < 2:
            for task in tasks:
                work(task, bar.update)
                yield task
            return
        counter = _CONTEXT.Value("q", 0)
        with pool(workers, counter) as executor:
            pending = {executor.submit(_work, work, task): task for task in tasks}
            while pending:
                finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.update(counter.value + done - bar.n)
                for future in finished:
                    future.result()
                    yield pending.pop(future)


def start() -> None:
    """Let a process begin to import what workers need: forked from it, they are there within milliseconds.

    From this one they cannot be forked: GDAL and TensorFlow hold threads that do not survive it.
    """
    _CONTEXT.set_forkserver_preload(["tfrecords_builder.writer", "tfrecords_builder.verify"])
    resource_tracker.ensure_running()  # by the way it lets signals through
    with held():  # terminals and schedulers send signals to all, but this one decides what they mean, and sees its workers end
        forkserver.ensure_running()


class _Pool(ProcessPoolExecutor):
    def submit(self, *arguments, **settings):
        with held():  # a process begins here, and whose beginning is broken off, is known to nobody
            try:
                return super().submit(*arguments, **settings)
            except (OSError, EOFError) as error:
                raise UserError(f"a worker process cannot begin ({error!r}); {_AGAIN}") from error


@contextlib.contextmanager
def pool(workers: int, counter=None) -> Iterator[ProcessPoolExecutor]:
    """Processes of which none outlives the block; where it is left by an exception, they are ended at once.

    Raises:
        UserError: One died, or could not begin.
    """
    start()
    executor = _Pool(workers, _CONTEXT, _begin, (counter,))
    try:
        yield executor
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise UserError(f"a worker process died (killed for memory?); {_AGAIN}") from error
        raise
    finally:
        executor.shutdown(cancel_futures=True)


_AGAIN = "run the same command again, with fewer --workers (a build keeps its finished shards)"
_CONTEXT = multiprocessing.get_context("forkserver")
_counter = None


def _begin(counter) -> None:
    global _counter
    _counter = counter
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    # A worker whose parent was killed would wait for tasks for ever.
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


def _work(work: Callable, task) -> None:
    try:
        with immediate():
            work(task)
    except Terminated:  # what was begun is removed; the pool would only tell the parent of it, and begin the next task
        os._exit(TERMINATED)


def count_patch() -> None:
    """Tell the process that shows the progress, where there is one, of a patch that was read."""
    if _counter is not None:
        with _counter.get_lock():
            _counter.value += 1
