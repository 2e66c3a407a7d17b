"""Shards written by processes of this machine."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from tfrs.errors import UserError
from tfrs.progress import progress
from tfrs.termination import TERMINATED, Terminated, immediate


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
        counter = multiprocessing.get_context("spawn").Value("q", 0)
        with pool(workers, _begin, counter) as executor:
            pending = {executor.submit(_work, work, task): task for task in tasks}
            try:
                while pending:
                    finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    bar.update(counter.value + done - bar.n)
                    for future in finished:
                        future.result()
                        yield pending.pop(future)
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process died (killed for memory?); finished shards are kept: "
                    "run the same command again, with fewer --workers"
                ) from error


@contextlib.contextmanager
def pool(workers: int, initializer: Callable | None = None, *arguments) -> Iterator[ProcessPoolExecutor]:
    """Processes of which none outlives the block; where it is left by an exception, they are ended at once."""
    # Spawned, not forked: GDAL and TensorFlow hold threads that do not survive a fork.
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer, arguments)
    try:
        # A terminal sends Ctrl-C to the workers too, but this process alone is to decide what it means: they inherit the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        for _ in range(workers):
            executor.submit(int)  # starts one
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield executor
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


_counter = None


def _begin(counter) -> None:
    global _counter
    _counter = counter
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
