"""Whether a training waits for its data, and why, as far as that can be known."""

import os
import resource
import time

import numpy as np

from tfrs.experiment import Experiment

LIMIT = 0.1  # share of an epoch's time
START = 1.0  # seconds; less is the start of the pipeline in a short epoch
FROM_STORAGE = 10e6  # bytes per second
BUSY = 0.8  # share of the time of all cores
BLOCK = 512  # bytes, of ru_inblock on Linux


def usage() -> np.ndarray:
    """Seconds of the clock, seconds of all cores together, and bytes that came from storage, of this process until now.

    Pages of a memory map that are in memory already count as nothing read.
    """
    read = resource.getrusage(resource.RUSAGE_SELF).ru_inblock * BLOCK
    return np.array([time.perf_counter(), time.process_time(), read])


def advice(experiment: Experiment, waited: float, used: np.ndarray) -> str:
    """A line on an epoch that spent too many seconds waiting, and `used` of `usage` in all; else nothing."""
    seconds, processor, read = used
    if waited < max(LIMIT * seconds, START):
        return ""
    cores = len(os.sched_getaffinity(0))
    busy = processor / (seconds * cores)
    work = [f"--augment={','.join(experiment.augment)}"] if experiment.augment else []
    work += ["--read=sequential, which parses whole records"] if experiment.read == "sequential" else []
    if read / seconds > FROM_STORAGE:
        cause = (
            f"{read / 1e9:.1f} GB came from storage, {read / seconds / 1e6:.0f} MB/s, as is usual in a first epoch; "
            "if it goes on, the records are larger than the free memory: put them on a faster disk"
        )
    elif busy > BUSY:
        cause = f"{cores} cores were {busy:.0%} busy" + (f", partly with {' and '.join(work)}" if work else "")
    else:
        causes = ["a network file system", *work]
        cause = f"neither the disk nor the processor ({cores} cores, {busy:.0%} busy) was the limit: {', or '.join(causes)}"
    return f"{waited / seconds:.0%} of the epoch was spent waiting for data. Likely cause: {cause}"
