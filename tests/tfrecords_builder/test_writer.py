import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tfrecords_builder import metadata, writer
from tfrecords_builder.plan import plan
from tfrecords_builder.verify import find_problems
from tfrecords_builder.writer import write
from tfrs.datasets.eurosat import EuroSat
from tfrs.errors import BadPatch, UserError
from tfrs.records import Records

SHARD_MB = 1  # train: 11, 11 and 10 patches
TRAIN = [f"eurosat-train.tfrecord-{i:05}-of-00003" for i in range(3)]
VAL, TEST = (f"eurosat-{split}.tfrecord-00000-of-00001" for split in ("val", "test"))
FILES = {
    *TRAIN,
    VAL,
    TEST,
    *(f"index-{split}.npy" for split in ("train", "val", "test")),
    "manifest.json",
    "quarantine.jsonl",
    "dataset_info.json",
    "features.json",
    "label.labels.txt",
}


@dataclass(frozen=True)
class Patches(EuroSat):
    """Patches of noise; some cannot be read."""

    def read(self, root, key):
        if key.startswith("bad"):
            raise BadPatch(f"/elsewhere/{key}.tif", "truncated")
        pixels = np.random.default_rng(list(key.encode())).integers(1, 9999, (13, 64, 64), dtype=np.uint16)
        return {"key": key, "crs": "EPSG:32633", "transform": np.arange(6.0), "label": 8, "s2": pixels}


@pytest.fixture(scope="module")
def root(eurosat_tree, tmp_path_factory):
    """40 patches of four classes, of which one train patch is truncated."""
    copy = shutil.copytree(eurosat_tree[0], tmp_path_factory.mktemp("data") / "eurosat")
    path = copy / "EuroSAT_MS" / "River" / f"{bad_key(copy)}.tif"
    path.write_bytes(path.read_bytes()[:60_000])
    return copy


def bad_key(root):
    return next(key for key in EuroSat().index(root, "train") if key.startswith("River"))


def build(root, out, **options):
    splits = plan(EuroSat(), root, limit=options.pop("limit", None))
    return write(EuroSat(), root, out, splits, **{"shard_mb": SHARD_MB, **options})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sound(root, tmp_path_factory):
    """Every file of the records that one worker wrote without a break."""
    return contents(build(root, tmp_path_factory.mktemp("sound")).directory)


def test_files(sound, root, tmp_path):
    assert sound.keys() == FILES
    directory = build(root, tmp_path / "new" / "records").directory
    assert directory == tmp_path / "new" / "records" / "eurosat" / "1.0.0"
    assert {path.name for path in directory.iterdir()} == FILES  # no .build
    assert find_problems(Records(directory)) == []


@pytest.mark.parametrize("workers", [2, 5])
def test_bytes_do_not_depend_on_workers(sound, root, tmp_path, workers):
    assert contents(build(root, tmp_path, workers=workers).directory) == sound


def test_bytes_do_not_depend_on_where_the_data_are(sound, root, tmp_path, monkeypatch):
    moved = shutil.copytree(root, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert contents(build(Path("moved"), Path("out")).directory) == sound
    assert moved.exists()


def interrupt(monkeypatch, owner, name, after):
    """Let the call number `after` of a function be interrupted; count the calls."""
    calls, function = [], getattr(owner, name)

    def counted(*arguments):
        calls.append(arguments)
        if len(calls) == after:
            raise KeyboardInterrupt
        return function(*arguments)

    monkeypatch.setattr(owner, name, counted)
    return calls


@pytest.mark.parametrize(
    ("owner", "name", "after", "shards", "left"),
    [
        (EuroSat, "read", 1, 0, 40),
        (EuroSat, "read", 4, 0, 40),
        (writer, "write_shard", 2, 1, 29),
        (EuroSat, "read", 25, 2, 18),
        (metadata, "finish", 1, 5, 0),
        (metadata, "tfds_files", 1, 5, 0),
    ],
)
def test_interrupted_build_goes_on(sound, root, tmp_path, monkeypatch, owner, name, after, shards, left):
    with monkeypatch.context() as patch:
        interrupt(patch, owner, name, after)
        with pytest.raises(KeyboardInterrupt):
            build(root, tmp_path)
    directory = tmp_path / "eurosat" / "1.0.0"
    assert not list(directory.rglob("*.tmp"))
    assert len(list(directory.glob("*.tfrecord-*"))) == shards
    with pytest.raises(UserError, match="the build has not finished"):
        Records(directory)
    read = interrupt(monkeypatch, EuroSat, "read", None)
    assert contents(build(root, tmp_path, workers=1).directory) == sound
    assert len(read) == left


def test_remains_of_a_killed_build_are_replaced(sound, root, tmp_path, monkeypatch):
    """What a lost process leaves: parts of a shard, an index without a result, a shard without a result, a cut shard."""
    with monkeypatch.context() as patch:
        interrupt(patch, writer, "write_shard", 3)
        with pytest.raises(KeyboardInterrupt):
            build(root, tmp_path)
    directory = tmp_path / "eurosat" / "1.0.0"
    (directory / TRAIN[0]).write_bytes(sound[TRAIN[0]][:-1])
    (directory / ".build" / f"{TRAIN[1]}.json").unlink()
    (directory / f"{TRAIN[2]}.tmp").write_bytes(b"part")
    (directory / ".build" / f"{TRAIN[2]}.json.tmp").write_bytes(b"{")
    (directory / ".build" / f"{VAL}.npy").write_bytes(b"part")
    (directory / VAL).write_bytes(b"part")
    assert contents(build(root, tmp_path).directory) == sound


def test_repeated_build_does_nothing(sound, root, tmp_path, monkeypatch):
    directory = build(root, tmp_path).directory
    read = interrupt(monkeypatch, EuroSat, "read", None)
    assert build(root, tmp_path, workers=3).directory == directory
    assert not read
    assert contents(directory) == sound


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"shard_mb": 2}, "shard_mb: 1 there, 2 asked for"),
        ({"limit": 3}, "patches: {'train': 32, 'val': 4, 'test': 4} there, {'train': 3, 'val': 3, 'test': 3} asked for"),
        ({"options": {"seed": 4}}, "seed: 0 there, 4 asked for"),
        ({"options": {"val_fraction": 0.2}}, "val_fraction: None there, 0.2 asked for"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_another_build_in_the_same_place_is_refused(root, tmp_path, monkeypatch, options, difference, complete):
    with monkeypatch.context() as patch:
        if complete:
            build(root, tmp_path)
        else:
            interrupt(patch, writer, "write_shard", 2)
            with pytest.raises(KeyboardInterrupt):
                build(root, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        build(root, tmp_path, **options)
    assert str(error.value).startswith(f"{tmp_path}/eurosat/1.0.0 holds other records (")
    assert difference in str(error.value)
    assert "give --overwrite to replace them, or another --output" in str(error.value)
    assert contents(tmp_path) == before


def test_other_patches_of_the_same_number_are_other_records(root, tmp_path):
    build(root, tmp_path)
    splits = plan(EuroSat(), root)
    splits["val"], splits["test"] = splits["test"], splits["val"]
    with pytest.raises(UserError, match=r"holds other records \(keys: "):
        write(EuroSat(), root, tmp_path, splits, shard_mb=SHARD_MB)


@pytest.mark.parametrize("complete", [True, False])
def test_overwrite_leaves_nothing_of_the_old(sound, root, tmp_path, monkeypatch, complete):
    with monkeypatch.context() as patch:
        if not complete:
            interrupt(patch, metadata, "tfds_files", 1)
            with pytest.raises(KeyboardInterrupt):
                build(root, tmp_path, shard_mb=0.3)
        else:
            build(root, tmp_path, shard_mb=0.3)
    assert contents(build(root, tmp_path, overwrite=True).directory) == sound


def test_place_that_cannot_be_written(root, tmp_path):
    (tmp_path / "eurosat").write_text("a file")
    with pytest.raises(UserError, match=r"eurosat.*: Not a directory; mend it and run the same command again"):
        build(root, tmp_path)


@pytest.mark.parametrize(("shard_mb", "shards"), [(1000, 1), (1.065, 10), (0.001, 100)])
def test_shards_have_about_the_size_asked_for(tmp_path, shard_mb, shards):
    """A patch has 13 * 64 * 64 * 2 = 106,496 bytes of pixels."""
    records = write(Patches(), tmp_path, tmp_path, {"train": [f"t{i}" for i in range(100)]}, shard_mb=shard_mb)
    assert [shard["records"] for shard in records.manifest["splits"]["train"]["shards"]] == [100 // shards] * shards


def test_records_keep_their_order_over_shards(tmp_path):
    keys = [f"t{i}" for i in np.random.default_rng(0).permutation(23)]
    records = write(Patches(), tmp_path, tmp_path, {"train": keys}, shard_mb=0.6)
    assert [shard["records"] for shard in records.manifest["splits"]["train"]["shards"]] == [6, 6, 6, 5]
    assert [sample["key"] for sample in records.samples("train")] == keys


def test_nothing_to_write(root, tmp_path):
    for splits in ({}, {"train": [], "val": []}):
        with pytest.raises(UserError, match="no patch in any split; nothing to write"):
            write(EuroSat(), root, tmp_path / "out", splits)
    assert not (tmp_path / "out").exists()


def test_a_split_without_a_good_patch(tmp_path):
    records = write(Patches(), tmp_path, tmp_path, {"train": ["a", "bad_1"], "val": ["bad_2", "bad_3"]})
    assert {split: records.count(split) for split in ("train", "val")} == {"train": 1, "val": 0}
    assert (list(records.samples("val")), records.manifest["quarantined"]) == ([], 3)
    assert find_problems(records) == []


def test_no_good_patch_at_all(tmp_path):
    splits = {"train": [f"bad_{i}" for i in range(9)], "val": ["bad_val"]}
    with pytest.raises(UserError, match=r"none of 10 patches could be read; the first, .*elsewhere/bad_0\.tif: truncated"):
        write(Patches(), tmp_path, tmp_path, splits, shard_mb=0.2)
    assert contents(tmp_path) == {}
