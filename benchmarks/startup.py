"""Time until --help is there, and until the first step of the demo's training is done, as multiples of `import tensorflow`.

    python -m benchmarks.startup
    python -m benchmarks.startup --records=demo/records --repeats=5

The first step is seen from outside: on a terminal of its own, the command's progress bar counts it.
"""

import os
import pty
import re
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from absl import app, flags

COMMANDS = [
    "tfrecords_builder",
    *(f"experiments.{path.stem}" for path in sorted(Path(__file__).parents[1].glob("experiments/[a-z]*.py"))),
]
STEP = re.compile(rb"epoch 1/\d+: [^\r]*[1-9]\d*/\d+ \[")

flags.DEFINE_string("records", "", "records of simulated SEN12MS; empty: 60 patches are made")
flags.DEFINE_integer("repeats", 3, "runs of each; the median counts", lower_bound=1)


def seconds(*arguments: str) -> float:
    """Duration of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def first_step(records: str, folder: str) -> float:
    """Seconds from the start of the demo's training until its progress bar counts a step."""
    command = ["-m", "experiments.classify", "--flagfile=experiments/configs/demo.flags", f"--records={records}"]
    terminal, bar = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 200))  # a new one has no columns, on which tqdm shows nothing
    start, seen = time.perf_counter(), b""
    process = subprocess.Popen(
        [sys.executable, *command, f"--run_dir={folder}/run"], stdout=subprocess.DEVNULL, stderr=bar, start_new_session=True
    )
    os.close(bar)
    while not STEP.search(seen):
        try:
            seen += os.read(terminal, 1 << 16)
        except OSError as error:
            raise RuntimeError(f"the training ended before its first step:\n{seen.decode()}") from error
    spent = time.perf_counter() - start
    process.kill()
    process.wait()
    os.close(terminal)
    return spent


def main(_: list[str]) -> None:
    print(f"{'':32} {'seconds':>8} {'of import tensorflow':>21}")
    with tempfile.TemporaryDirectory() as folder:
        unit = measured("import tensorflow", lambda _: seconds("-c", "import tensorflow"))
        for command in COMMANDS:
            measured(f"{command} --help", lambda _, command=command: seconds("-m", command, "--help"), unit)
        records = flags.FLAGS.records
        if not records:
            records = f"{folder}/records"
            made = ["--dataset=sen12ms", "--synthesize=60", f"--input={folder}/data", f"--output={records}"]
            seconds("-m", "tfrecords_builder", *made)
        measured("first step of the demo", lambda number: first_step(records, f"{folder}/{number}"), unit)


def measured(name: str, run: Callable[[int], float], unit: float | None = None) -> float:
    """Median duration of the repeats, printed beside that of importing TensorFlow (by default the same)."""
    found = median(map(run, range(flags.FLAGS.repeats)))
    print(f"{name:32} {found:8.2f} {found / (unit or found):21.2f}", flush=True)
    return found


if __name__ == "__main__":
    app.run(main)
