import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import zipfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from tfrecords_builder import lock, writer
from tfrecords_builder.plan import plan
from tfrecords_builder.verify import find_problems
from tfrecords_builder.writer import write
from tfrs import archive_mount, geotiff
from tfrs.datasets.eurosat import EuroSat
from tfrs.errors import UserError
from tfrs.records import Records

SHARD_MB = 1  # train: 11, 11 and 10 patches
TRAIN = [f"eurosat-train.tfrecord-{i:05}-of-00003" for i in range(3)]
FOLDER = Path("eurosat/1.0.0")


@pytest.fixture(scope="module")
def source(eurosat_tree, tmp_path_factory):
    """40 patches of four classes, of which one train patch of the first shard is empty."""
    copy = shutil.copytree(eurosat_tree[0], tmp_path_factory.mktemp("data") / "eurosat")
    file(copy, train_key(copy, 3)).write_bytes(b"")
    return copy


@pytest.fixture
def root(source, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(source, tmp_path / "source")


def build(root, out, dataset=None, **options):
    dataset = dataset or EuroSat()
    return write(dataset, root, out, plan(EuroSat(), root), **{"shard_mb": SHARD_MB, **options})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sound(source, tmp_path_factory):
    """Every file of the records that one worker wrote without a break."""
    return contents(build(source, tmp_path_factory.mktemp("sound")).directory)


def train_key(root, number=15):
    """A patch of the second train shard."""
    return plan(EuroSat(), root)["train"][number]


def file(root, key):
    return root / "EuroSAT_MS" / key.split("_")[0] / f"{key}.tif"


def reasons(records):
    """The reasons of quarantine by key, without those of the patch that is empty from the start."""
    lines = map(json.loads, (records.directory / "quarantine.jsonl").read_text().splitlines())
    _, *others = ((line["key"], line["reason"]) for line in lines)
    return dict(others)


class Deadly(EuroSat):  # no docstring: records hold that of the data set
    def read(self, root, key):
        marker = Path(root).parent / "killed"
        if key == train_key(root) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(root, key)


def test_a_worker_is_killed(sound, root, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"a worker process died .*; run the same command again, .*keeps its finished shards"):
        build(root, out, Deadly(), workers=2)
    assert not (out / FOLDER / "manifest.json").exists()
    assert contents(build(root, out, Deadly(), workers=2).directory) == sound


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EOFError(), r"a worker process cannot begin \(EOFError\(\)\)"),
        (OSError(9, "Bad file descriptor"), r"a worker process cannot begin \(OSError\(9, 'Bad file descriptor'\)\)"),
        (BrokenProcessPool(), "a worker process died"),
    ],
)
def test_a_worker_that_dies_as_it_begins(sound, root, tmp_path, monkeypatch, error, said):
    submit, begun = ProcessPoolExecutor.submit, []

    def second_fails(*arguments):
        begun.append(arguments)
        if len(begun) == 2:
            raise error
        return submit(*arguments)

    with monkeypatch.context() as patch, pytest.raises(UserError, match=said):
        patch.setattr(ProcessPoolExecutor, "submit", second_fails)
        build(root, tmp_path / "out", workers=2)
    records = build(root, tmp_path / "out", workers=2)
    assert contents(records.directory) == sound
    begun.clear()
    with pytest.raises(UserError, match=said):
        monkeypatch.setattr(ProcessPoolExecutor, "submit", second_fails)
        find_problems(records, workers=2)


FULL = pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="no /dev/full, the file on which every write finds the disk full"
)


@FULL
@pytest.mark.parametrize(
    ("name", "named"),
    [
        (TRAIN[1], TRAIN[1]),
        (f".build/{TRAIN[1]}.npy", TRAIN[1]),
        (f".build/{TRAIN[1]}.json", TRAIN[1]),
        ("index-val.npy", "1.0.0"),
        ("quarantine.jsonl", "1.0.0"),
        ("features.json", "1.0.0"),
        ("manifest.json", "1.0.0"),
    ],
)
def test_full_disk(sound, source, tmp_path, monkeypatch, name, named):
    directory, function = tmp_path / FOLDER, writer.write_shard

    def write_shard(task, count):
        """Once the build has begun, the temporary name of the file leads to a full disk."""
        owner = lock.suffix() if "tfrecord" in name or "quarantine" in name else ""
        if task.name == TRAIN[1]:
            (directory / f"{name}{owner}.tmp").symlink_to("/dev/full")
        return function(task, count)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_shard", write_shard)
        with pytest.raises(UserError, match=rf"{re.escape(named)}: the disk is full; free some space and run the same command"):
            build(source, tmp_path)
    assert not list(directory.rglob("*.tmp"))
    assert not (directory / "manifest.json").exists()
    assert contents(build(source, tmp_path).directory) == sound


def test_a_file_system_that_is_really_full(sound, source, tmp_path):
    """3 MB of room for 4.3 MB of records, and then enough: with processes of its own, as their writes fail elsewhere."""
    out = tmp_path / "small"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", out], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        with pytest.raises(UserError, match="the disk is full; free some space and run the same command again"):
            build(source, out, workers=2)
        subprocess.run(["mount", "-o", "remount,size=20m", out], check=True)
        assert contents(build(source, out, workers=2).directory) == sound
    finally:
        subprocess.run(["umount", out], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_source_that_disappears_stops_the_build(sound, root, tmp_path, workers):
    """It is moved away by the patch in the middle of it; all that were to come would have no file."""
    out = tmp_path / "out"
    (tmp_path / "last").write_text(train_key(root, 0))
    with pytest.raises(UserError, match=rf"^{root}: No such file or directory; the build stopped while it was reading there"):
        build(root, out, Unmounted(), workers=workers)
    assert not (out / FOLDER / "quarantine.jsonl").exists()
    (tmp_path / "elsewhere").rename(root)
    assert contents(build(root, out, workers=workers).directory) == sound


class Unmounted(EuroSat):
    def read(self, root, key):
        if key == (Path(root).parent / "last").read_text():
            Path(root).rename(Path(root).parent / "elsewhere")
        return super().read(root, key)


def test_a_mount_point_that_is_empty_stops_the_build(root, tmp_path, monkeypatch):
    read = EuroSat.read

    def unmount(self, folder, key):
        shutil.rmtree(root / "EuroSAT_MS", ignore_errors=True)
        return read(self, folder, key)

    monkeypatch.setattr(EuroSat, "read", unmount)
    with pytest.raises(UserError, match=rf"^{root}: it is empty now; the build stopped while it was reading there"):
        build(root, tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:60_000]), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: flip_compressed(path), "cannot be read"),
    ],
    ids=["truncated", "empty", "missing", "bad checksum"],
)
def test_a_damaged_file_is_one_patch_less(root, tmp_path, damage, reason):
    splits, key = plan(EuroSat(), root), train_key(root)
    damage(file(root, key))
    records = write(EuroSat(), root, tmp_path / "out", splits, shard_mb=SHARD_MB)
    assert records.count("train") == 30
    assert reasons(records).keys() == {key}
    assert reason in reasons(records)[key]
    assert find_problems(Records(records.directory)) == []


def flip_compressed(path):
    """A deflated file ends in a checksum of its pixels; of these one bit is another."""
    geotiff.write(path, geotiff.read(path), compress="deflate")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


@contextlib.contextmanager
def unprivileged():
    """Without the rights of root, whom no file is closed to."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder(source, sound):
    """A copy of the source and a place for records, which every user may reach.

    After a first build: modules imported later may lie where only root can read.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(source, folder / "source")
        (folder / "out").mkdir()
        for path in (folder, folder / "out", folder / "source"):
            path.chmod(0o777)
        yield folder
        for path in folder.rglob("*"):
            path.chmod(0o755)


def test_a_closed_file_is_one_patch_less(open_folder):
    root = open_folder / "source"
    splits, key = plan(EuroSat(), root), train_key(root)
    file(root, key).chmod(0)
    with unprivileged():
        records = write(EuroSat(), root, open_folder / "out", splits, shard_mb=SHARD_MB)
    assert "Permission denied" in reasons(records)[key]


@pytest.mark.parametrize("closed", ["source", "source/EuroSAT_MS/River"])
def test_a_closed_folder_stops_the_build(open_folder, closed):
    splits = plan(EuroSat(), open_folder / "source")
    (open_folder / closed).chmod(0)
    with unprivileged(), pytest.raises(UserError, match=rf"^{open_folder / closed}: Permission denied; the build stopped"):
        write(EuroSat(), open_folder / "source", open_folder / "out", splits, shard_mb=SHARD_MB)


def test_a_closed_folder_is_no_empty_one(open_folder):
    (open_folder / "source/EuroSAT_MS/River").chmod(0)
    with unprivileged(), pytest.raises(PermissionError, match=f"Permission denied: '{open_folder}/source/EuroSAT_MS/River'"):
        plan(EuroSat(), open_folder / "source")


def test_a_reason_does_not_tell_where_an_archive_was(root, tmp_path):
    packed, key = Path(shutil.make_archive(str(tmp_path / "EuroSAT_MS"), "zip", root)), train_key(root)
    with zipfile.ZipFile(packed) as opened:
        place = opened.getinfo(f"EuroSAT_MS/{key.split('_')[0]}/{key}.tif").header_offset
    content = bytearray(packed.read_bytes())
    content[place + 1000] ^= 1
    packed.write_bytes(content)
    mounted = archive_mount.mount(EuroSat(), packed, tmp_path / "spool")
    records = write(EuroSat(), mounted, tmp_path / "out", plan(EuroSat(), mounted), shard_mb=SHARD_MB)
    assert "EuroSAT_MS.zip: member is damaged" in reasons(records)[key]
    assert str(tmp_path) not in (records.directory / "quarantine.jsonl").read_text()


def test_an_index_of_somebody_else_is_used(open_folder):
    source, spool, out = (open_folder / name for name in ("source", "spool", "out"))
    packed = Path(shutil.make_archive(str(open_folder / "EuroSAT_MS"), "zip", source))
    archive_mount.release(archive_mount.mount(EuroSat(), packed, spool))
    spool.chmod(0o555)
    with unprivileged():
        mounted = archive_mount.mount(EuroSat(), packed, spool)
        records = write(EuroSat(), mounted, out, plan(EuroSat(), mounted), shard_mb=SHARD_MB)
        archive_mount.release(mounted)
        with pytest.raises(UserError, match=r"spool/.* delete the file|spool/.*: Permission denied"):
            archive_mount.mount(EuroSat(), shutil.copy(packed, out / "other.zip"), spool)
    assert find_problems(records) == []


def test_a_build_that_ended_between_a_look_and_the_lock_is_not_replaced(source, tmp_path, monkeypatch):
    before = contents(build(source, tmp_path / "out").directory)
    monkeypatch.setattr(writer, "complete", lambda build: None)
    with pytest.raises(UserError, match="another build has ended here just now; run the same command again"):
        build(source, tmp_path / "out", shard_mb=2)
    monkeypatch.undo()
    assert contents(build(source, tmp_path / "out").directory) == before


def test_an_error_of_the_system_while_reading_is_one_patch_less(root, tmp_path, monkeypatch):
    """As a disk with a bad sector gives it, whatever the reader makes of it."""
    read, key = EuroSat.read, train_key(root)

    def broken(self, folder, name):
        if name == key:
            raise OSError(5, "Input/output error", f"{folder}/labels.json")
        return read(self, folder, name)

    monkeypatch.setattr(EuroSat, "read", broken)
    records = build(root, tmp_path / "out")
    assert reasons(records) == {key: "Input/output error"}
