import functools
import json
import shutil
import struct

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from small_records import write_records

from tfrs import frames, pipeline, record_index, records, tasks
from tfrs.errors import UserError
from tfrs.records import Records


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Records of 37 train and 5 val patches."""
    return write_records(tmp_path_factory.mktemp("records"), train=37, val=5).directory


@pytest.fixture
def copied(built, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(built, tmp_path / "small" / "1.0.0")


def framed(payloads):
    return b"".join(part for data in payloads for part in frames.frame([data])[0])


@given(st.lists(st.binary(max_size=400), max_size=4))
def test_frames_are_those_of_tensorflow(tmp_path_factory, payloads):
    path = tmp_path_factory.mktemp("shard") / "shard"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in payloads:
            writer.write(data)
    shard = path.read_bytes()
    assert framed(payloads) == shard
    assert [shard[slice(*span)] for span in frames.frames(path)] == payloads


@given(st.lists(st.lists(st.binary(max_size=400), min_size=1, max_size=3), max_size=4))
def test_crc_of_a_file_follows_from_those_of_its_frames(payloads):
    shard, crc = b"", 0
    for chunks in payloads:
        framed, crc = frames.frame(chunks, crc)
        shard += b"".join(framed)
    assert crc == google_crc32c.value(shard)


@given(st.binary(max_size=50), st.integers(0, 1 << 20))
def test_crcs_are_joined(data, zeros):
    ending = data + bytes(zeros) + data
    crc = frames.joined(google_crc32c.value(data), google_crc32c.value(ending), len(ending))
    assert crc == google_crc32c.value(data + ending)


def test_tensorflow_reads_the_shards(built):
    found = Records(built)
    for split in ("train", "val"):
        serialized = list(tf.data.TFRecordDataset(list(map(str, found.shards(split)))).as_numpy_iterator())
        examples = [tf.train.Example.FromString(record).features.feature for record in serialized]
        assert len(examples) == found.count(split)
        for example, sample in zip(examples, found.samples(split), strict=True):
            assert example["key"].bytes_list.value == [sample["key"].encode()]
            assert example["label"].int64_list.value == [sample["label"]]
            assert list(example["labels"].int64_list.value) == sample["labels"].tolist()
            assert example["s2"].bytes_list.value == [sample["s2"].tobytes()]
            assert example["s1"].bytes_list.value == [sample["s1"].tobytes()]


def test_index_points_into_the_shards(built):
    """Every column against what TensorFlow parses from the record."""
    found = Records(built)
    table = found.index("train")
    assert len(found.shards("train")) == table["shard"].max() + 1 > 1
    shards = [path.read_bytes() for path in found.shards("train")]
    for row in table:
        shard = shards[row["shard"]]
        example = tf.train.Example.FromString(shard[row["start"] : row["end"]]).features.feature
        for name in ("s2", "s1"):
            (pixels,) = example[name].bytes_list.value
            at = int(row[f"at_{name}"])
            assert shard[at : at + len(pixels)] == pixels
        assert row["key"] == example["key"].bytes_list.value[0]
        assert row["label"] == example["label"].int64_list.value[0]
        assert np.flatnonzero(row["labels"]).tolist() == list(example["labels"].int64_list.value)
        assert row["fractions"].tolist() == list(example["fractions"].float_list.value)


def test_a_lost_index_is_rebuilt(copied):
    saved = {split: np.load(copied / f"index-{split}.npy") for split in ("train", "val")}
    for split, table in saved.items():
        (copied / f"index-{split}.npy").unlink()
        rebuilt = Records(copied).index(split)
        assert rebuilt.dtype == table.dtype
        np.testing.assert_array_equal(rebuilt, table)


def test_stale_index_is_refused(copied):
    np.save(copied / "index-val.npy", np.load(copied / "index-val.npy")[:4])
    with pytest.raises(UserError, match=r"index-val\.npy: 4 rows for 5 records; delete it"):
        Records(copied).index("val")


def test_every_damaged_byte_is_found(tmp_path):
    path, payloads = tmp_path / "shard", [b"first", b"", b"third record"]
    sound = framed(payloads)
    ends = np.cumsum([16 + len(data) for data in payloads])
    for at in range(len(sound)):
        for value in (sound[at] ^ 1, sound[at] ^ 0x80, (~sound[at]) & 0xFF):
            path.write_bytes(sound[:at] + bytes([value]) + sound[at + 1 :])
            with pytest.raises(UserError) as error:
                list(frames.frames(path))
            assert str(error.value).startswith(f"{path}: record {np.searchsorted(ends, at, side='right')}: CRC")


def test_unchecked_data_are_not_read(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(framed([b"data"]).replace(b"data", b"dota"))
    assert list(frames.frames(path, check=False)) == [(12, 16)]


def test_every_truncation_is_found(tmp_path):
    path, payloads = tmp_path / "shard", [b"first", b"", b"third record"]
    sound = framed(payloads)
    whole = {0: 0, **dict(zip(np.cumsum([16 + len(data) for data in payloads]).tolist(), (1, 2, 3), strict=True))}
    for length in range(len(sound) + 1):
        path.write_bytes(sound[:length])
        if length in whole:
            assert len(list(frames.frames(path))) == whole[length]
        else:
            number = max(count for end, count in whole.items() if end < length)
            with pytest.raises(UserError, match=rf"shard: record {number}: the file ends within the frame \(truncated\)"):
                list(frames.frames(path))


def test_a_huge_length_with_a_sound_crc_is_found(tmp_path):
    length = struct.pack("<Q", 2**62)
    (_, crc), _ = frames.frame([length])
    (tmp_path / "shard").write_bytes(length + crc + bytes(30))
    with pytest.raises(UserError, match="record 0: the file ends within the frame"):
        list(frames.frames(tmp_path / "shard"))


def test_an_empty_shard_has_no_record(tmp_path, built):
    (tmp_path / "shard").touch()
    assert list(frames.frames(tmp_path / "shard")) == []
    assert len(record_index.index_shard(tmp_path / "shard", Records(built).schema)) == 0


def test_shards_are_named_as_in_tensorflow_datasets():
    assert records.shard_name("sen12ms", "train", 3, 16) == "sen12ms-train.tfrecord-00003-of-00016"


def test_no_more_than_256_shards_are_open(built):
    assert Records(built).open.cache_info().maxsize == 256


def test_unknown_split(built):
    found = Records(built)
    assert (found.count("train"), found.count("val")) == (37, 5)
    with pytest.raises(UserError, match=r"unknown split of .*1\.0\.0 'vla'\. Did you mean 'val'\? Known: train, val\."):
        found.count("vla")


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_records_are_found_below_a_folder(copied, levels):
    assert Records([copied, *copied.parents][levels]).directory == copied


def test_the_newest_version_is_taken(copied):
    for version in ("1.10.0", "1.9.0"):
        shutil.copytree(copied, copied.parent / version)
    assert Records(copied.parent.parent).directory.name == "1.10.0"


def test_two_sets_are_refused(copied):
    shutil.copytree(copied, copied.parents[1] / "other" / "1.0.0")
    with pytest.raises(UserError, match=r"several sets of records \(.*\); name one of them") as error:
        Records(copied.parents[1])
    assert all(f"/{name}/1.0.0" in str(error.value) for name in ("small", "other"))


def test_no_directory(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such directory; build records with"):
        Records(tmp_path / "nowhere")


def test_no_manifest(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json there; the build has not finished"):
        Records(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ('{"format": 2}', "records of format 2, this version reads format 1; build them again"),
        ("{}", "records of format None"),
        ('{"format": 1}', r"not a manifest of this package \('dataset'\); build the records again"),
    ],
)
def test_bad_manifest(tmp_path, content, message):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        Records(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/manifest.json: ")


@pytest.mark.parametrize("part", ["schema", "sensors", "statistics", "splits"])
def test_a_manifest_without_one_of_its_parts(copied, part):
    path = copied / "manifest.json"
    content = json.loads(path.read_text())
    del content[part]
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=rf"manifest\.json: not a manifest of this package \('{part}'\); build the records again"
    ):
        Records(copied)


def test_manifest_describes_the_records(built):
    found, manifest = Records(built), json.loads((built / "manifest.json").read_text())
    assert (found.name, manifest["version"], manifest["format"]) == ("small", "1.0.0", 1)
    assert found.sensors["s2"].bands[-1] == "B8A"
    assert (found.sensors["s2"].nodata, found.sensors["s1"].nodata) == (0, None)
    assert found.sensors["s1"].unit == "decibel"
    assert found.schema.fields["s1"].shape == (2, 16, 16)


def test_joined_tables_hold_the_longest_key(built):
    found = Records(built)
    parts = [record_index.index_shard(path, found.schema) for split in ("val", "train") for path in found.shards(split)]
    assert parts[0].dtype["key"].itemsize < parts[-1].dtype["key"].itemsize
    keys = [sample["key"] for split in ("val", "train") for sample in found.samples(split)]
    assert [key.decode() for key in record_index.concatenate(parts, found.schema)["key"]] == keys


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-1]), "bytes, but the manifest says .* verify .* --repair"),
        (lambda shard: shard.unlink(), ": 0 bytes, but the manifest says"),
    ],
)
def test_a_shard_that_is_not_whole_is_told_before_training(copied, damage, message):
    found = Records(copied)
    task = tasks.create("single_label", found.schema, threshold=0.1, inclusive=False, label_smoothing=0.0)
    load = functools.partial(pipeline.load, found, inputs="s1", task=task, batch_size=2)
    load("train")
    damage(found.shards("train")[1])
    with pytest.raises(UserError, match=f"{found.shards('train')[1].name}{message}" if message[0] == ":" else message):
        load("train")
    load("val")


def test_damaged_indexes_are_told(copied):
    path = copied / "index-train.npy"
    table = np.load(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"index-train.npy: damaged .*delete it"):
        Records(copied).index("train")
    table["shard"][-1] += 1
    np.save(path, table)
    with pytest.raises(UserError, match=r"index-train.npy: of another build, .*delete it"):
        Records(copied).index("train")
