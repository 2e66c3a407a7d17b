import os

import numpy as np
import pytest

from tfrs import waiting
from tfrs.experiment import Experiment

CORES = len(os.sched_getaffinity(0))
SLOW = Experiment(augment=("rotate", "noise"), read="sequential")


@pytest.mark.parametrize(
    ("experiment", "processor", "read", "cause"),
    [
        (SLOW, 0.3, 8e9, "8.0 GB came from storage, 200 MB/s, as is usual in a first epoch; if it goes on, the records are "),
        (Experiment(), 0.95, 1e6, f"{CORES} cores were 95% busy"),
        (SLOW, 0.9, 0, f"{CORES} cores were 90% busy, partly with --augment=rotate,noise and --read=sequential, which parses"),
        (Experiment(), 0.3, 0, f"neither the disk nor the processor ({CORES} cores, 30% busy) was the limit: a network file"),
        (SLOW, 0.3, 0, "was the limit: a network file system, or --augment=rotate,noise, or --read=sequential, which parses"),
    ],
)
def test_cause_is_what_the_epoch_used(experiment, processor, read, cause):
    """40 seconds, of which 10 were waited."""
    line = waiting.advice(experiment, 10, np.array([40, 40 * CORES * processor, read]))
    assert line.startswith("25% of the epoch was spent waiting for data. Likely cause: ") and cause in line


@pytest.mark.parametrize(("waited", "seconds"), [(9.9, 100), (0.9, 1)])
def test_short_waits_are_nothing_to_tell(waited, seconds):
    assert waiting.advice(SLOW, waited, np.array([seconds, 0, 0])) == ""


def test_usage_counts_what_this_process_does(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(os.urandom(1 << 22))
    before = waiting.usage()
    with open(path, "rb") as file:
        os.fsync(os.open(path, os.O_RDWR))
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert len(file.read()) == 1 << 22
    sum(range(3_000_000))
    seconds, processor, read = waiting.usage() - before
    assert 0 < processor <= CORES * seconds + 0.1
    if read:  # not where files are in memory only
        assert read == pytest.approx(1 << 22, rel=0.1)
