"""A build shared by the tasks of a batch scheduler, such as a SLURM array: each writes its shards, a last step the manifest."""

from collections.abc import Callable

from tfrecords_builder import quarantine
from tfrecords_builder.writer import Build, ShardTask, finish, finished, opened, write_shards
from tfrs.errors import UserError
from tfrs.records import Records


def share(build: Build, index: int, count: int) -> tuple[ShardTask, ...]:
    """The shards of task `index` of `count`, as many of every split as the others have, give or take one."""
    return build.tasks[index::count]


def write_share(build: Build, index: int, count: int, run: Callable) -> None:
    """Write the shards of one task; those that are there already are kept.

    Raises:
        UserError: Another build, or another process with the same task, is writing there; else as `write_build`.
    """
    with opened(build, f"{index}-of-{count}"):
        write_shards(build, share(build, index, count), run)


def finish_shares(build: Build, count: int) -> Records:
    """Write the manifest after all tasks have written their shards.

    Raises:
        UserError: A task is still at work, or has not written all its shards; names it. Or too many patches are bad.
    """
    with opened(build):
        results = {task.name: finished(task) for task in build.tasks}
        missing = {i: [task for task in share(build, i, count) if not results[task.name]] for i in range(count)}
        if late := [i for i, tasks in missing.items() if tasks]:
            raise UserError(
                f"{build.directory}: {sum(map(len, missing.values()))} of {len(build.tasks)} shards are missing, e.g. "
                f"{missing[late[0]][0].name}; run again with --task_count={count} and --task_index="
                f"{', '.join(map(str, late))}, then this command"
            )
        bad = [line for result in results.values() for line in result["quarantine"]]
        quarantine.check(build.folder, bad, build.planned, build.max_bad_fraction)
        finish(build)
    return Records(build.directory)
