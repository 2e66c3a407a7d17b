import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfrecords_builder.plan import plan
from tfrecords_builder.repair import repair
from tfrecords_builder.verify import verify
from tfrecords_builder.writer import write
from tfrs import registry
from tfrs.labels import EUROSAT, IGBP, IGBP_SIMPLIFIED
from tfrs.records import Records
from tfrs.schema import Field, Schema

SCHEMES = {"igbp": IGBP, "igbp_simplified": IGBP_SIMPLIFIED, "eurosat": EUROSAT}
SMALL = Schema(
    {
        "key": Field("text"),
        "label": Field("label", scheme="eurosat"),
        "labels": Field("labels", scheme="igbp_simplified"),
        "fractions": Field("fractions", scheme="igbp"),
        "transform": Field("vector", "float64", (6,)),
        "s2": Field("raster", "uint16", (2, 3, 4)),
    },
    SCHEMES,
)


def sample(**changes):
    values = {
        "key": "River_12",
        "label": 8,
        "labels": np.array([2, 5]),
        "fractions": np.linspace(0, 1, 17).astype(np.float32),
        "transform": np.array([10.00570688714736, 0, 624602.2348443292, 0, -9.994088099999352, 4877286.033637]),
        "s2": np.arange(24, dtype=np.uint16).reshape(2, 3, 4) * 2731,
    }
    return {**values, **changes}


# Rasters (C, H, W) and series of them (T, C, H, W).
RASTERS = hnp.array_shapes(min_dims=3, max_dims=4, max_side=4)


@st.composite
def schemas_and_samples(draw):
    fields, values = {}, {}
    for name in draw(st.lists(st.sampled_from(["key", "s1", "s2", "mask", "place", "y"]), unique=True, min_size=1)):
        kind = draw(st.sampled_from(["raster", "vector", "text", "label", "labels", "fractions"]))
        scheme = draw(st.sampled_from(sorted(SCHEMES)))
        classes = len(SCHEMES[scheme].classes)
        if kind in ("raster", "vector"):
            dtype = draw(st.sampled_from(["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"]))
            shape = draw(hnp.array_shapes(min_dims=1, max_dims=1) if kind == "vector" else RASTERS)
            values[name] = draw(hnp.arrays(dtype, shape))
            fields[name] = Field(kind, dtype, (-1, *shape[1:]) if len(shape) == 4 else shape)
        elif kind == "text":
            fields[name], values[name] = Field(kind), draw(st.text())
        elif kind == "label":
            fields[name], values[name] = Field(kind, scheme=scheme), draw(st.integers(0, classes - 1))
        elif kind == "labels":
            present = draw(st.sets(st.integers(0, classes - 1)))
            fields[name], values[name] = Field(kind, scheme=scheme), np.array(sorted(present), np.int64)
        else:
            fields[name], values[name] = Field(kind, scheme=scheme), draw(hnp.arrays(np.float32, (classes,)))
    return Schema(fields, SCHEMES), values


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, strict=isinstance(value, np.ndarray))


@given(schemas_and_samples(), st.binary(max_size=7))
def test_parse_gives_back_what_was_encoded(pair, before):
    schema, values = pair
    data = schema.encode(values)
    assert_same(schema.parse(data), values)
    buffer = before + data + b"after"
    assert_same(schema.parse(np.frombuffer(buffer, np.uint8), len(before), len(before) + len(data)), values)


@settings(max_examples=40)
@given(schemas_and_samples())
def test_tensorflow_decodes_what_was_encoded(pair):
    schema, values = pair
    expected = {}
    for name, value in values.items():
        spec = schema.fields[name]
        if spec.kind == "labels":
            value = np.isin(np.arange(len(SCHEMES[spec.scheme].classes)), value).astype(np.uint8)
        expected[name] = value.encode() if spec.kind == "text" else value
    found = {name: tensor.numpy() for name, tensor in schema.decode(tf.constant(schema.encode(values))).items()}
    assert_same(found, expected)


def test_decode_within_a_dataset_has_static_shapes():
    dataset = tf.data.Dataset.from_tensors(SMALL.encode(sample())).map(lambda record: SMALL.decode(record, ["s2", "labels"]))
    assert {name: (spec.dtype, spec.shape) for name, spec in dataset.element_spec.items()} == {
        "s2": (tf.uint16, [2, 3, 4]),
        "labels": (tf.uint8, [10]),
    }
    (found,) = dataset.as_numpy_iterator()
    assert found["labels"].tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    np.testing.assert_array_equal(found["s2"], sample()["s2"])


def test_encoded_values_are_those_of_an_example():
    features = tf.train.Example.FromString(SMALL.encode(sample())).features.feature
    assert features["key"].bytes_list.value == [b"River_12"]
    assert features["label"].int64_list.value == [8]
    assert features["labels"].int64_list.value == [2, 5]
    assert features["s2"].bytes_list.value == [sample()["s2"].astype("<u2").tobytes()]
    np.testing.assert_array_equal(np.float32(features["fractions"].float_list.value), sample()["fractions"])


def test_encode_takes_views_of_any_layout():
    turned = np.arange(24, dtype=np.uint16).reshape(4, 3, 2).T
    np.testing.assert_array_equal(SMALL.parse(SMALL.encode(sample(s2=turned)))["s2"], turned)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s2": sample()["s2"].astype(np.int32)}, r"s2 is int32 \(2, 3, 4\), schema says uint16 \(2, 3, 4\)"),
        ({"s2": sample()["s2"].transpose(1, 2, 0)}, r"s2 is uint16 \(3, 4, 2\), schema says uint16 \(2, 3, 4\)"),
        ({"s2": sample()["s2"].astype(">u2")}, r"s2 is >u2"),
        ({"transform": sample()["transform"].astype(np.float32)}, "transform is float32"),
        ({"fractions": np.zeros(10, np.float32)}, r"fractions is float32 \(10,\), schema says float32 \(17,\)"),
        ({"fractions": np.zeros(17)}, "fractions is float64"),
        ({"date": "20200101"}, "sample has .*date"),
    ],
)
def test_encode_refuses_what_the_schema_does_not_say(changes, message):
    with pytest.raises(ValueError, match=message):
        SMALL.encode(sample(**changes))


def test_encode_refuses_a_missing_field():
    values = sample()
    del values["label"]
    with pytest.raises(ValueError, match="sample has"):
        SMALL.encode(values)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("s2", Field("raster", "uint16", (2, 3, 5)), "s2 has 48 bytes, manifest says 60"),
        ("s2", Field("raster", "uint16", (-1, 2, 3, 5)), "48 bytes are no series of rasters of 60 bytes"),
        ("s2", Field("label", scheme="eurosat"), "s2 is no label"),
        ("label", Field("fractions", scheme="igbp"), "label is no fractions"),
        ("labels", Field("label", scheme="igbp_simplified"), "labels is no label"),
        ("fractions", Field("fractions", scheme="eurosat"), "fractions has 17 values, manifest says 10"),
        ("extra", Field("text"), "record has fields .* manifest says"),
    ],
)
def test_parse_refuses_records_of_another_schema(name, spec, message):
    with pytest.raises(ValueError, match=message):
        Schema({**SMALL.fields, name: spec}, SCHEMES).parse(SMALL.encode(sample()))


@pytest.mark.parametrize("changes", [{"label": 10}, {"label": -1}, {"labels": np.array([3, 10])}])
def test_parse_refuses_class_ids_outside_the_legend(changes):
    with pytest.raises(ValueError, match=r"is outside the 10 classes"):
        SMALL.parse(SMALL.encode(sample(**changes)))


@pytest.mark.parametrize("schema", [SMALL, *(registry.dataset(name)().schema for name in registry.DATASETS)])
def test_manifest_keeps_the_schema(schema):
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


# The features as one would declare them for TensorFlow Datasets.
IMAGE = {
    "sen12ms": {"s2": ((13, 256, 256), np.uint16), "s1": ((2, 256, 256), np.float32), "lc": ((4, 256, 256), np.uint16)},
    "eurosat": {"s2": ((13, 64, 64), np.uint16)},
    "eurosat_rgb": {"rgb": ((3, 64, 64), np.uint8)},
}
CLASSES = {
    "sen12ms": "Forest Shrubland Savanna Grassland Wetlands Croplands Urban/Built-up Snow/Ice Barren Water",
    "eurosat": "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake",
}
CLASSES["eurosat_rgb"] = CLASSES["eurosat"]


def declared_features(name):
    features = {"key": tfds.features.Text(), "label": tfds.features.ClassLabel(names=CLASSES[name].split())}
    for image, (shape, dtype) in IMAGE[name].items():
        features[image] = tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")
    if name != "eurosat_rgb":
        features["crs"] = tfds.features.Text()
        features["transform"] = tfds.features.Tensor(shape=(6,), dtype=np.float64, encoding="bytes")
    if name == "sen12ms":
        features["labels"] = tfds.features.Sequence(tfds.features.ClassLabel(names=CLASSES[name].split()))
        features["fractions"] = tfds.features.Tensor(shape=(17,), dtype=np.float32)
    return tfds.features.FeaturesDict(features)


@pytest.fixture(scope="module", params=list(IMAGE))
def built(request, tmp_path_factory):
    """Records of a small tree, the data set, its root and its splits."""
    tree = request.getfixturevalue(f"{request.param}_tree")
    root = tree[0] if isinstance(tree, tuple) else tree
    dataset = registry.dataset(request.param)()
    splits = plan(dataset, root)
    records = write(dataset, root, tmp_path_factory.mktemp("records"), splits, shard_mb=1)
    return records.directory, dataset, root, splits


def test_features_are_those_that_tfds_would_write(built, tmp_path):
    directory, dataset, _, _ = built
    declared_features(dataset.name).save_config(tmp_path)
    expected = {path.name: path for path in tmp_path.iterdir()}
    assert {path.name for path in directory.glob("*.labels.txt")} == {name for name in expected if name.endswith(".labels.txt")}
    for name, path in expected.items():
        read = json.loads if name == "features.json" else str.split
        assert read((directory / name).read_text()) == read(path.read_text())


def test_tfds_reads_every_record(built):
    directory, dataset, root, splits = built
    builder = tfds.builder_from_directory(directory)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {k: len(v) for k, v in splits.items()}
    assert builder.info.features["label"].names == CLASSES[dataset.name].split()
    for split, keys in splits.items():
        read = list(builder.as_dataset(split=split, shuffle_files=False).as_numpy_iterator())
        assert [found["key"].decode() for found in read] == keys
        for found, key in zip(read, keys, strict=True):
            source = dataset.read(root, key)
            for text in ("key", "crs"):
                if text in found:
                    found[text] = found[text].decode()
            assert_same(found, source)


def test_tfds_reads_records_whose_files_were_repaired(built, tmp_path):
    directory, _, _, splits = built
    records = Records(shutil.copytree(directory, tmp_path / "records"))
    for name in ("dataset_info.json", "features.json", *(path.name for path in directory.glob("*.labels.txt"))):
        (records.directory / name).unlink()
    verify(records, repair=functools.partial(repair, run=None))
    builder = tfds.builder_from_directory(records.directory)
    assert [found["key"].decode() for found in builder.as_dataset(split="val").as_numpy_iterator()] == splits["val"]
