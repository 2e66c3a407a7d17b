"""Shards written by Apache Beam, on any of its runners."""

import shlex
from collections.abc import Callable, Iterator

from tfrs.errors import UserError

try:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ModuleNotFoundError as error:
    raise UserError(f"--runner=beam needs Apache Beam ({error}); install it: pip install 'tfrs[beam]'") from error


def run(work: Callable, tasks: list, _done: int = 0, *, options: str = "") -> Iterator:
    """Call `work(task)` for every task in one Beam pipeline; yields them when all are done.

    Every worker must see the source and the output under the same absolute paths.

    Args:
        options: Options of Beam as on a command line, e.g. `--runner=FlinkRunner --flink_master=host:8081`.

    Raises:
        UserError: The pipeline failed.
    """
    if not tasks:
        return
    try:
        with apache_beam.Pipeline(options=PipelineOptions(shlex.split(options))) as pipeline:
            shards = pipeline | "shards" >> apache_beam.Create(tasks)
            # Without it a runner may fuse reading the list with the work, all on one worker.
            shards = shards | "spread" >> apache_beam.Reshuffle()
            shards | "write" >> apache_beam.Map(work)
    except Exception as error:  # whatever the runner made of the worker's own
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(f"the Beam pipeline failed; the same command continues it: {lines[-1]}") from error
    yield from tasks
