import functools
import shutil

import numpy as np
import pytest

from tfrecords_builder import local
from tfrecords_builder.plan import plan
from tfrecords_builder.repair import repair
from tfrecords_builder.verify import find_problems, verify
from tfrecords_builder.writer import write
from tfrs import geotiff
from tfrs.datasets import eurosat
from tfrs.datasets.auxiliary import WithAuxiliary
from tfrs.datasets.eurosat import EuroSat
from tfrs.datasets.multisenge import MultiSenGE
from tfrs.errors import UserError
from tfrs.records import Records

TRAIN, VAL = "eurosat-train.tfrecord-0000{}-of-00003", "eurosat-val.tfrecord-00000-of-00001"


@pytest.fixture(scope="module")
def built(eurosat_tree, tmp_path_factory):
    """The source and its records in 5 shards; one train patch of the first shard is in quarantine."""
    folder = tmp_path_factory.mktemp("repair")
    root = shutil.copytree(eurosat_tree[0], folder / "source")
    (folder / "val.txt").write_text("\n".join(plan(EuroSat(), root)["val"]))
    patch(root, 3).write_bytes(b"")
    settings = {"split_files": {"train": "rest", "val": str(folder / "val.txt")}, "seed": 4}
    splits = plan(EuroSat(seed=4), root, **settings, limit=30)
    options = {"seed": 4, "input": str(root), "split_file": settings["split_files"], "limit": 30}
    write(EuroSat(seed=4), root, folder / "out", splits, shard_mb=1, options=options)
    return folder


def patch(root, number):
    """The file of a train patch by its place in the records."""
    files = {"train": "rest", "val": str(root.parent / "val.txt")}
    key = plan(EuroSat(seed=4), root, split_files=files, seed=4)["train"][number]
    return root / "EuroSAT_MS" / key.split("_")[0] / f"{key}.tif"


@pytest.fixture
def folder(built, tmp_path):
    """A copy of both that a test may damage; the manifest still names the first place of the source."""
    for name in ("source", "val.txt", "out"):
        (shutil.copytree if (built / name).is_dir() else shutil.copy)(built / name, tmp_path / name)
    return tmp_path


def opened(folder):
    return Records(folder / "out/eurosat/1.0.0")


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def mend(folder, root=None, workers=1):
    run = functools.partial(local.run, workers=workers)
    verify(opened(folder), 1, functools.partial(repair, run=run, root=root))


def flip(path):
    data = bytearray(path.read_bytes())
    data[50_000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("workers", [1, 2])
def test_exactly_the_bad_shards_are_built_again(folder, built, capsys, monkeypatch, workers):
    directory, sound = folder / "out/eurosat/1.0.0", contents(built / "out/eurosat/1.0.0")
    flip(directory / TRAIN.format(0))
    (directory / TRAIN.format(2)).unlink()
    (directory / VAL).write_bytes(sound[TRAIN.format(1)])
    (directory / "index-val.npy").write_bytes(b"")
    (directory / "features.json").unlink()
    (directory / "label.labels.txt").write_text("River\n")
    times = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    mend(folder, workers=workers)
    assert contents(directory) == sound
    written = {path.name for path in directory.iterdir() if times.get(path.name) != path.stat().st_mtime_ns}
    assert written == {TRAIN.format(0), TRAIN.format(2), VAL, "index-val.npy", "features.json", "label.labels.txt"}
    out = capsys.readouterr().out.splitlines()
    assert {line for line in out if line.startswith("repaired")} == {f"repaired {name}" for name in written}
    assert out[-1].startswith("ok: ")


def test_sound_records_need_no_source(folder, built, capsys):
    mend(folder, root="nowhere")
    assert capsys.readouterr().out.startswith("ok: ")
    assert contents(folder / "out/eurosat/1.0.0") == contents(built / "out/eurosat/1.0.0")


def test_a_folder_in_the_place_of_a_shard(folder, built, capsys):
    directory, sound = folder / "out/eurosat/1.0.0", contents(built / "out/eurosat/1.0.0")
    in_the_way, bad = directory / TRAIN.format(0), directory / TRAIN.format(1)
    in_the_way.unlink()
    in_the_way.mkdir()
    flip(bad)
    with pytest.raises(UserError, match="problems found, listed above; --repair cannot mend that"):
        mend(folder)
    out = capsys.readouterr().out
    assert f"not repaired {in_the_way.name}: Is a directory" in out and f"{in_the_way}: " in out
    assert bad.read_bytes() == sound[bad.name]


def test_files_of_tfds_need_no_source(folder, built):
    for path in [*opened(folder).directory.glob("*.labels.txt"), opened(folder).directory / "dataset_info.json"]:
        path.write_bytes(b"")
    mend(folder, root="nowhere")
    assert contents(folder / "out/eurosat/1.0.0") == contents(built / "out/eurosat/1.0.0")


def test_missing_source_is_told(folder):
    flip(opened(folder).directory / VAL)
    before = contents(opened(folder).directory)
    with pytest.raises(UserError, match="nowhere: no such file or directory; give the data set's place with --input"):
        mend(folder, root="nowhere")
    assert contents(opened(folder).directory) == before


def test_source_of_other_patches_is_refused(folder):
    flip(opened(folder).directory / VAL)
    before = contents(opened(folder).directory)
    patch(folder / "source", 7).unlink()
    eurosat.members.cache_clear()  # another process lists the source anew
    with pytest.raises(
        UserError, match=r"cannot be repaired from .*/source, not what it was built from \(keys: as many patches"
    ):
        mend(folder, root=folder / "source")
    assert contents(opened(folder).directory) == before


def test_patch_that_has_changed_is_refused_and_the_others_are_mended(folder, built, capsys):
    directory, sound = opened(folder).directory, contents(built / "out/eurosat/1.0.0")
    changed = patch(folder / "source", 15)  # of the second shard
    raster = geotiff.read(changed)
    raster.data[3, 5, 6] += 1
    geotiff.write(changed, raster)
    flip(directory / TRAIN.format(1))
    flip(directory / TRAIN.format(2))
    damaged = contents(directory)
    with pytest.raises(UserError, match=r"2 problems found, listed above; --repair cannot mend that: build .* --overwrite"):
        mend(folder, root=folder / "source")
    assert contents(directory) == {**sound, TRAIN.format(1): damaged[TRAIN.format(1)]}
    assert f"not repaired {TRAIN.format(1)}: {folder}/source has changed, built again it has crc32c" in capsys.readouterr().out


def test_patch_that_was_mended_belongs_to_other_records(folder, eurosat_tree, capsys):
    flip(opened(folder).directory / TRAIN.format(0))
    bad = patch(folder / "source", 3)
    shutil.copy(eurosat_tree[0] / bad.relative_to(folder / "source"), bad)
    with pytest.raises(UserError, match="--repair cannot mend that"):
        mend(folder, root=folder / "source")
    assert "built again it has records 10, bytes" in capsys.readouterr().out


def test_damaged_list_of_quarantine_is_not_for_repair(folder):
    (opened(folder).directory / "quarantine.jsonl").unlink()
    with pytest.raises(UserError, match="1 problem found, listed above; --repair cannot mend that"):
        mend(folder)


def test_manifest_without_a_place_wants_it_given(eurosat_tree, tmp_path):
    root = eurosat_tree[0]
    records = write(EuroSat(), root, tmp_path, plan(EuroSat(), root, limit=2), options={"limit": 2, "seed": 0})
    sound = contents(records.directory)
    flip(records.directory / VAL)
    with pytest.raises(UserError, match="its manifest does not say where the source is; give it with --input"):
        repair(records, find_problems(records), local.run)
    repair(records, find_problems(records), local.run, root)
    assert contents(records.directory) == sound


@pytest.mark.parametrize(
    "dataset",
    [
        MultiSenGE(form="series", tiles=("31UGQ", "32ULU")),
        MultiSenGE(dates="monthly", max_days=5),
        WithAuxiliary(EuroSat(seed=2), (("water", "{root}/water.tif"),)),
    ],
    ids=["series", "dates", "auxiliary"],
)
def test_options_of_a_data_set_come_back_from_the_manifest(dataset, tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    dataset.synthesize(root, 6, 1)
    if isinstance(dataset, WithAuxiliary):
        whole = geotiff.Raster(np.ones((1, 90, 180), np.uint8), "EPSG:4326", (2.0, 0.0, -180.0, 0.0, -2.0, 90.0))
        geotiff.write(root / "water.tif", whole)
        dataset = WithAuxiliary(dataset.base, (("water", f"{root}/water.tif"),))
    options = {"input": str(root), "seed": dataset.seed}
    records = write(dataset, root, tmp_path, plan(dataset, root, seed=dataset.seed), options=options)
    sound = contents(records.directory)
    shard = records.shards("train")[0]
    shard.write_bytes(b"")
    repair(records, find_problems(records), local.run)
    assert contents(records.directory) == sound
