"""Shards written by processes of this machine."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from tfrs.errors import UserError
from tfrs.progress import progress


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
        # Spawned, not forked: GDAL and TensorFlow hold threads that do not survive a fork.
        context = multiprocessing.get_context("spawn")
        counter = context.Value("q", 0)
        with ProcessPoolExecutor(workers, context, _share, (counter,)) as pool:
            pending = {pool.submit(work, task): task for task in tasks}
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
            finally:
                pool.shutdown(cancel_futures=True)


_counter = None


def _share(counter) -> None:
    global _counter
    _counter = counter
    # A worker whose parent was killed would wait for tasks for ever.
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


def count_patch() -> None:
    """Tell the process that shows the progress, where there is one, of a patch that was read."""
    if _counter is not None:
        with _counter.get_lock():
            _counter.value += 1
