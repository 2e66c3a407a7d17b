import subprocess
import sys
from pathlib import Path

import pytest

from tfrecords_builder import lock, shares, writer
from tfrecords_builder.plan import plan
from tfrs.datasets.eurosat import EuroSat
from tfrs.errors import UserError

COUNT = 3


@pytest.fixture(scope="module")
def root(eurosat_tree):
    return eurosat_tree[0]


def start(root, out, *flags):
    command = [sys.executable, "-m", "tfrecords_builder", "--dataset=eurosat", f"--input={root}", f"--output={out}"]
    command += ["--shard_mb=0.5", "--workers=1", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sound(root, tmp_path_factory):
    """Every file of the records that one process wrote."""
    out = tmp_path_factory.mktemp("sound")
    done = start(root, out)
    assert done.wait() == 0, done.communicate()
    return contents(out)


def test_tasks_in_processes_of_their_own_and_a_last_step_write_the_same_bytes(root, sound, tmp_path):
    tasks = [start(root, tmp_path, f"--task_index={i}", f"--task_count={COUNT}") for i in range(COUNT)]
    for i, task in enumerate(tasks):
        out, err = task.communicate()
        assert (task.returncode, err) == (0, "")
        assert f"eurosat/1.0.0: the 3 shards of task {i} of 3 are there" in out
    assert not list(tmp_path.rglob("manifest.json"))
    finish = start(root, tmp_path, f"--task_count={COUNT}")
    assert "eurosat/1.0.0: 3 tasks finished" in finish.communicate()[0]
    assert contents(tmp_path) == sound
    late = start(root, tmp_path, "--task_index=1", f"--task_count={COUNT}")
    assert "already built: nothing to do" in late.communicate()[0]
    assert contents(tmp_path) == sound


def prepare(root, out, **options):
    splits = plan(EuroSat(), root)
    return writer.prepare(EuroSat(), root, out, splits, shard_mb=0.5, options={"seed": 0, "input": str(root)}, **options)


def test_missing_task_is_named(root, sound, tmp_path):
    build = prepare(root, tmp_path)
    with pytest.raises(UserError, match=r"9 of 9 shards are missing, .* --task_count=3 and --task_index=0, 1, 2, then this"):
        shares.finish_shares(build, COUNT)
    shares.write_share(build, 1, COUNT, writer.local.run)
    (missing,) = {task.name for task in shares.share(build, 1, COUNT)} & {
        path.name for path in tmp_path.rglob("*-00001-of-00007")
    }
    (build.directory / missing).unlink()
    shares.write_share(build, 0, COUNT, writer.local.run)
    with pytest.raises(UserError) as error:
        shares.finish_shares(build, COUNT)
    assert str(error.value) == (
        f"{build.directory}: 4 of 9 shards are missing, e.g. {missing}; run again with --task_count=3 and --task_index=1, 2, "
        "then this command"
    )
    # The plain command needs no tasks: it writes what is missing.
    assert contents(writer.write_build(build).directory.parents[1]) == sound


def test_every_shard_has_one_task(root, tmp_path):
    build = prepare(root, tmp_path)
    for count in (1, 2, 4, 20):
        parts = [shares.share(build, i, count) for i in range(count)]
        assert sorted(task.name for part in parts for task in part) == sorted(task.name for task in build.tasks)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_another_build_is_refused_while_tasks_are_at_work(root, tmp_path):
    build = prepare(root, tmp_path)
    build.folder.mkdir(parents=True)
    with lock.hold(build.folder, "0-of-3"):
        shares.write_share(build, 2, COUNT, writer.local.run)
        for again in (
            lambda: shares.write_share(build, 0, COUNT, writer.local.run),
            lambda: shares.finish_shares(build, COUNT),
            lambda: writer.write_build(build),
            lambda: writer.write_build(build, overwrite=True),
        ):
            with pytest.raises(UserError, match=r"another build is writing here \(task 0-of-3, process "):
                again()
        other = writer.prepare(EuroSat(), root, tmp_path, plan(EuroSat(), root), shard_mb=1)
        with pytest.raises(UserError, match=r"holds other records \(shard_mb: 0.5 there, 1 asked for"):
            shares.write_share(other, 1, COUNT, writer.local.run)


def test_too_many_bad_patches_of_all_tasks_stop_the_last_step(root, tmp_path, monkeypatch):
    read = EuroSat.read

    def broken(self, folder, key):
        if "River" in key or "Highway" in key:
            raise OSError(5, "Input/output error", f"{folder}/{key}.tif")
        return read(self, folder, key)

    build = prepare(root, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(EuroSat, "read", broken)
        for i in range(COUNT):
            shares.write_share(build, i, COUNT, writer.local.run)
        for _ in range(2):
            with pytest.raises(UserError, match="stopped, 20 patches are bad"):
                shares.finish_shares(build, COUNT)
    # Mended: the tasks read those shards anew.
    for i in range(COUNT):
        shares.write_share(build, i, COUNT, writer.local.run)
    assert shares.finish_shares(build, COUNT).manifest["quarantined"] == 0


def test_more_tasks_than_shards(root, tmp_path, sound):
    build = prepare(root, tmp_path)
    for i in range(20):
        shares.write_share(build, i, 20, writer.local.run)
    shares.finish_shares(build, 20)
    assert contents(tmp_path) == sound
