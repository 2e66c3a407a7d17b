import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_records import write_records

ROOT = Path(__file__).parents[1]

LEFT = """
import sys
from tfrs import pipeline, tasks
from tfrs.records import Records

records = Records(sys.argv[1])
task = tasks.create("multi_label", records.schema, threshold=0.1, inclusive=False, label_smoothing=0.0)
options = {"inputs": "s1s2", "task": task, "batch_size": 4, "read": sys.argv[2]}
batches = iter(pipeline.load(records, "train", augment=["dihedral"] * 10, seed=0, **options).repeat())
for _ in range(7):
    images, target, weight = next(batches)
print(len(weight))
"""


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_program_ends_in_the_middle_of_endless_batches(tmp_path, read):
    """It used to wait for ever for threads that Python lets run no more."""
    records = write_records(tmp_path, train=64).directory
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", LEFT, str(records), read]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
    assert "StopIteration" not in done.stderr and "Traceback" not in done.stderr
