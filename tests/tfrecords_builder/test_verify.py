import json
import shutil
import struct

import google_crc32c
import numpy as np
import pytest
from small_records import SmallPatches

from tfrecords_builder import verify as verifying
from tfrecords_builder.plan import plan
from tfrecords_builder.show import describe
from tfrecords_builder.verify import verify
from tfrecords_builder.writer import write
from tfrs import geotiff
from tfrs.datasets.eurosat import EuroSat
from tfrs.errors import UserError
from tfrs.records import Records

TRAIN = "eurosat-train.tfrecord-0000{}-of-00003"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Records of 30 EuroSAT patches: 24 train in 3 shards, 3 val and 3 test in one each, one more in quarantine."""
    root, rng = tmp_path_factory.mktemp("eurosat"), np.random.default_rng(0)
    for name in ("River", "Forest", "Highway"):
        (root / name).mkdir()
        for number in range(1, 11):
            pixels = rng.integers(1, 4000, (13, 64, 64)).astype("uint16")
            geotiff.write(root / name / f"{name}_{number}.tif", geotiff.Raster(pixels, "EPSG:32632"))
    (root / "River" / "River_11.tif").write_bytes(b"II*\0")
    out, dataset = tmp_path_factory.mktemp("records"), EuroSat(seed=0)
    return write(dataset, root, out, plan(dataset, root), shard_mb=1).directory


@pytest.fixture
def records(built, tmp_path):
    """A copy that a test may damage."""
    return Records(shutil.copytree(built, tmp_path / "records"))


def find_problems(records, workers=1):
    return list(map(str, verifying.find_problems(records, workers)))


def edit_manifest(records, change):
    path = records.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return Records(records.directory)


def flip_bit(path, at, bit=0):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def test_sound_records_have_no_problem(built, capsys):
    records = Records(built)
    assert [len(records.shards(split)) for split in ("train", "val", "test")] == [3, 1, 1]
    verify(records, workers=1)
    assert capsys.readouterr().out == "ok: 30 records in 5 shards\n"


def test_workers_find_the_same(records):
    for number, at in ((0, 5000), (2, 90_000)):
        flip_bit(records.directory / TRAIN.format(number), at)
    alone = find_problems(records, workers=1)
    assert len(alone) == 4
    assert find_problems(records, workers=2) == alone


def test_flipped_bit_in_pixels_names_shard_and_record(records):
    row = records.index("train")[11]
    shard = records.shards("train")[int(row["shard"])]
    number = int((records.index("train")["shard"][:11] == row["shard"]).sum())
    flip_bit(shard, int(row["at_s2"]) + 4321, bit=6)
    problems = find_problems(records)
    assert len(problems) == 2
    assert "CRC32C of the file" in problems[0]
    assert problems[1] == f"{shard}: record {number}: CRC of the data does not match"


def test_any_flipped_bit_is_found(records):
    shard = records.directory / "eurosat-val.tfrecord-00000-of-00001"
    sound, rng = shard.read_bytes(), np.random.default_rng(1)
    for at in [*range(20), *rng.integers(0, len(sound), 20), len(sound) - 1]:
        flip_bit(shard, int(at), int(rng.integers(8)))
        problems = find_problems(records)
        assert len(problems) == 2
        assert all(str(shard) in problem for problem in problems)
        assert "record" in problems[1]
        shard.write_bytes(sound)


def test_truncated_shard_names_record(records):
    shard = records.directory / TRAIN.format(1)
    size = shard.stat().st_size
    with open(shard, "r+b") as file:
        file.truncate(size - 7)
    problems = find_problems(records)
    last = records.manifest["splits"]["train"]["shards"][1]["records"] - 1
    assert problems == [
        f"{shard}: {size - 7} bytes, manifest says {size}",
        f"{shard}: record {last}: the file ends within the frame (truncated)",
    ]


def test_shard_cut_between_records_lacks_them(records):
    shard = records.directory / TRAIN.format(1)
    (length,) = struct.unpack("<Q", shard.read_bytes()[:8])
    with open(shard, "r+b") as file:
        file.truncate(length + 16)
    problems = "\n".join(find_problems(records))
    assert f"{shard}: 1 records, manifest says" in problems
    assert "split train has" in problems


def test_empty_shard_is_found(records):
    shard = records.directory / TRAIN.format(0)
    shard.write_bytes(b"")
    assert f"{shard}: 0 bytes, manifest says" in find_problems(records)[0]


def test_missing_shard_is_found(records):
    shard = records.directory / TRAIN.format(2)
    shard.unlink()
    assert find_problems(records) == [f"{shard}: No such file or directory"]


@pytest.mark.parametrize("name", ["eurosat-train.tfrecord-00000-of-00007", "eurosat-val.tfrecord-00000-of-00001.tmp"])
def test_foreign_shard_is_found(records, name):
    shutil.copy(records.shards("val")[0], records.directory / name)
    (problem,) = find_problems(records)
    assert problem.startswith(f"{records.directory / name}: shard of another build")


def test_record_of_another_schema_is_named_though_every_checksum_fits(records):
    shard = records.directory / "eurosat-test.tfrecord-00000-of-00001"
    sound = shard.read_bytes()
    payload = b"\x0a\x05other"  # as a message it is well framed, but no tf.train.Example

    def masked(data):
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    head = struct.pack("<Q", len(payload))
    data = sound + head + masked(head) + payload + masked(payload)
    shard.write_bytes(data)
    facts = {"bytes": len(data), "crc32c": f"{google_crc32c.value(data):08x}"}
    records = edit_manifest(records, lambda m: m["splits"]["test"]["shards"][0].update(facts))
    info, problem = find_problems(records)
    assert info == f"{records.directory}/dataset_info.json: not as the manifest says"  # it has the number of bytes, too
    stated = records.manifest["splits"]["test"]["records"]
    assert problem.startswith(f"{shard}: record {stated}: not a tf.train.Example")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m["splits"]["val"].update(records=2), "split val has 3 records, manifest says 2"),
        (lambda m: m["splits"]["val"]["shards"][0].update(records=4), "00000-of-00001: 3 records, manifest says 4"),
        (lambda m: m["splits"]["val"]["shards"][0].update(crc32c="00000000"), "CRC32C of the file is"),
        (lambda m: m["splits"]["val"]["classes"]["label"].__setitem__(8, 7), "label 'River' of split val: 1 in the records"),
        (lambda m: m["splits"]["val"]["classes"]["label"].pop(), "classes of label in split val: 10 numbers wanted, found [0,"),
        (lambda m: m["splits"]["val"]["classes"].pop("label"), "classes of label in split val: 10 numbers wanted, found None"),
        (lambda m: m["spec"]["patches"].update(train=99), "patches planned, but 30 records and 1 in quarantine"),
        (lambda m: m.update(quarantined=0), "quarantine.jsonl: 1 patches, manifest says 0"),
        (lambda m: m["statistics"]["s2"]["B05"].update(std=float("nan")), "statistics of s2 B05 are no numbers: ["),
        (lambda m: m["statistics"]["s2"]["B05"].update(mean=None), "statistics of s2 B05 are no numbers: [None, "),
        (lambda m: m["statistics"]["s2"]["B05"].update(count=4096), "s2 B05 are of 4096 pixels, train has 98304"),
        (lambda m: m["statistics"]["s2"].pop("B05"), "statistics of s2 B05 are of 0 pixels, train has 98304"),
        (lambda m: m["statistics"].pop("s2") and m.update(statistics={}), "statistics of s2 B8A are of 0 pixels"),
        (lambda m: m.update(version="1.0.1"), "dataset_info.json: not as the manifest says"),
    ],
)
def test_edited_manifest_is_found(records, change, expected):
    assert expected in "\n".join(find_problems(edit_manifest(records, change)))


def test_pixels_of_maps_are_counted_again(tmp_path):
    small = SmallPatches()
    records = write(small, tmp_path, tmp_path, {"train": list("abcdef"), "val": list("gh")}, shard_mb=0.02)
    assert len(records.shards("train")) > 1 and find_problems(records) == []
    water = sum(int((small.read(tmp_path, key)["lc"] == 17).sum()) for key in "abcdef")
    records = edit_manifest(records, lambda m: m["splits"]["train"]["classes"]["lc"].__setitem__(16, 7))
    (problem,) = find_problems(records)
    assert problem.endswith(f"manifest.json: lc 'Water Bodies' of split train: {water} in the records, manifest says 7")


def test_wrong_index_row_names_record(records):
    path = records.directory / "index-train.npy"
    table = np.load(path)
    table["label"][10] = (table["label"][10] + 1) % 10
    np.save(path, table)
    (problem,) = find_problems(records)
    assert problem.startswith(f"{path}: row of record")
    assert f"({table['key'][10].decode()}) is wrong" in problem


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "cannot be read"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
        (lambda path: np.save(path, np.load(path)[:-1]), "2 rows"),
        (lambda path: np.save(path, np.zeros(3)), "columns are None"),
    ],
)
def test_damaged_index_is_found(records, damage, expected):
    path = records.directory / "index-val.npy"
    damage(path)
    problems = find_problems(records)
    assert all(problem.startswith(f"{path}: ") for problem in problems)
    assert expected in problems[0]


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "label.labels.txt"])
def test_damaged_file_of_tfds_is_found(records, name):
    path = records.directory / name
    sound = path.read_text()
    for damaged in ("", sound[:-9], sound.replace("River", "Rover").replace("64", "32").replace('"8"', '"9"')):
        path.write_text(damaged)
        (problem,) = find_problems(records)
        assert problem.startswith((f"{path}: not as the manifest says", f"{path}: cannot be read ("))
    path.unlink()
    assert find_problems(records) == [f"{path}: missing"]


def test_description_of_another_release_is_no_problem(records):
    path = records.directory / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "description": "of a later docstring"}))
    assert find_problems(records) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("River_11, broken", "line 1 cannot be read (Expecting value"),
        ('{"key": "River_11"}', "line 1 cannot be read (no JSON object with key, split, path and reason)"),
        ('["key", "split", "path", "reason"]', "line 1 cannot be read (no JSON object with"),
        ('{"key": "River_4", "split": "train", "path": "", "reason": ""}', "River_4 is a record of split "),
    ],
)
def test_damaged_list_of_quarantine_is_found(records, line, expected):
    path = records.directory / "quarantine.jsonl"
    path.write_text(line + "\n")
    (problem,) = find_problems(records)
    assert problem.startswith(f"{path}: {expected}")
    if "cannot be read" in expected:
        with pytest.raises(UserError, match=r"quarantine\.jsonl: damaged .* verify .* names the lines"):
            describe(records)


def test_all_problems_are_printed_and_counted(records, capsys):
    flip_bit(records.directory / TRAIN.format(0), 100)
    (records.directory / TRAIN.format(1)).unlink()
    (records.directory / "index-val.npy").unlink()
    with pytest.raises(UserError, match="4 problems found, listed above"):
        verify(records)
    lines = capsys.readouterr().out.splitlines()
    assert [name in "\n".join(lines) for name in (TRAIN.format(0), TRAIN.format(1), "index-val.npy")] == [True] * 3
    assert len(lines) == 4
