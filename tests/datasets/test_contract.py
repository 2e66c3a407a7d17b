import inspect
import multiprocessing
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfrecords_builder.plan import plan
from tfrecords_builder.writer import write
from tfrs import geotiff, registry
from tfrs.errors import BadPatch, UserError
from tfrs.sensors import S1_BANDS, S2_BANDS

N = 5
DTYPES = {"s1": "float32", "rgb": "uint8", "lc": "uint16", "ground_reference": "uint8"}


@pytest.fixture(scope="module", params=list(registry.DATASETS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def dataset(name):
    return registry.dataset(name)(seed=0)


@pytest.fixture(scope="module")
def root(dataset, tmp_path_factory):
    """`N` simulated patches."""
    folder = tmp_path_factory.mktemp(dataset.name)
    dataset.synthesize(folder, N, 3)
    return folder


@pytest.fixture(scope="module")
def samples(dataset, root):
    keys = sorted(key for split in dataset.splits for key in dataset.index(root, split))
    return {key: dataset.read(root, key) for key in keys}


def contents(folder, endings=None):
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and (not endings or path.suffix in endings)]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_specification(name, dataset):
    assert dataset.name == name
    assert re.fullmatch(r"\d+\.\d+\.\d+", dataset.version)
    assert dataset.splits == ("train", "val", "test")
    assert dataset.schema.fields["key"].kind == "text"
    assert dataset.layout


def test_datasheet_tells_extent_labels_and_licence(dataset):
    text = "".join(inspect.getdoc(kind) for kind in type(dataset).mro()[:2])
    assert all(word in text for word in ("Extent:", "Labels:", "Splits:", "Licence:"))


def test_sensors_are_fields(dataset):
    for sensor in dataset.sensors:
        field = dataset.schema.fields[sensor.name]
        assert field.kind == "raster"
        assert (field.dtype, field.shape[0]) == (sensor.dtype, len(sensor.bands))
        assert len(set(sensor.bands)) == len(sensor.bands)
        assert set(sensor.bands) <= set(S1_BANDS if sensor.name == "s1" else S2_BANDS)
        assert sensor.unit


def test_rasters_have_the_dtype_of_their_name(dataset):
    for name, field in dataset.schema.fields.items():
        if field.kind == "raster":
            assert field.dtype == DTYPES.get(name, "uint16")


def test_legends_are_there(dataset):
    for field in dataset.schema.fields.values():
        assert field.scheme or field.kind not in ("label", "labels", "fractions")
        assert not field.scheme or field.scheme in dataset.schema.schemes


def test_splits_are_sorted_disjoint_and_complete(dataset, root):
    splits = [dataset.index(root, split) for split in dataset.splits]
    assert all(keys == sorted(keys) for keys in splits)
    everything = [key for keys in splits for key in keys]
    assert len(everything) == len(set(everything))
    patches = [{dataset.patch(key) for key in keys} for keys in splits]
    assert sum(map(len, patches)) == len(set.union(*patches)) == N


def test_index_opens_no_raster(dataset, root, monkeypatch):
    monkeypatch.setattr(geotiff, "read", None)
    assert dataset.index(root, "train")


def test_samples_are_as_the_schema_says(dataset, samples):
    for key, sample in samples.items():
        assert sample.keys() == dataset.schema.fields.keys()
        assert sample["key"] == key
        for name, field in dataset.schema.fields.items():
            if field.dtype:
                assert (sample[name].dtype, sample[name].shape) == (field.dtype, field.shape)
            elif field.scheme:
                classes = len(dataset.schema.schemes[field.scheme].classes)
                values = np.ravel(sample[name])
                assert (values >= 0).all()
                assert values.sum() == pytest.approx(1) if field.kind == "fractions" else (values < classes).all()


def test_records_hold_the_samples(dataset, root, samples, tmp_path):
    records = write(dataset, root, tmp_path, plan(dataset, root))
    found = {sample["key"]: sample for split in records.manifest["splits"] for sample in records.samples(split)}
    assert found.keys() == samples.keys()
    for key, sample in samples.items():
        for name, value in sample.items():
            np.testing.assert_array_equal(found[key][name], value)


def test_a_record_is_an_example(dataset, samples):
    sample = next(iter(samples.values()))
    features = tf.train.Example.FromString(dataset.schema.encode(sample)).features.feature
    assert features.keys() == sample.keys()
    for name, field in dataset.schema.fields.items():
        if field.kind == "raster":
            stored = np.frombuffer(features[name].bytes_list.value[0], np.dtype(field.dtype).newbyteorder("<"))
            np.testing.assert_array_equal(stored.reshape(field.shape), sample[name])


def test_simulation_is_drawn_by_its_seed(dataset, root, tmp_path):
    dataset.synthesize(tmp_path / "again", N, 3)
    dataset.synthesize(tmp_path / "fewer", 3, 3)
    dataset.synthesize(tmp_path / "other", 3, 4)
    assert contents(tmp_path / "again") == contents(root)
    # Lists and tables name all patches there are, so only rasters can be compared with those of another number.
    sound, fewer, other = (contents(folder, (".tif", ".jpg")) for folder in (root, tmp_path / "fewer", tmp_path / "other"))
    assert fewer.items() < sound.items()
    assert not set(other.values()) & set(fewer.values())


def test_patches_differ(dataset, samples):
    for sensor in dataset.sensors:
        assert len({sample[sensor.name].tobytes() for sample in samples.values()}) == len(samples)


def test_it_travels_to_a_spawned_process(dataset, root, samples):
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    key = next(iter(samples))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        sample = pool.apply(dataset.read, (root, key))
    assert sample.keys() == samples[key].keys()


def test_unknown_patch_is_a_bad_patch(dataset, root):
    with pytest.raises(BadPatch):
        dataset.read(root, "no such patch")


@pytest.mark.parametrize("there", [True, False])
def test_place_without_a_patch_is_named(dataset, tmp_path, there):
    if there:
        (tmp_path / "data").mkdir()
    with pytest.raises(UserError) as error:
        dataset.index(tmp_path / "data", "train")
    assert str(error.value).startswith(f"{tmp_path}/data: ")
    assert (dataset.layout if there else "--input") in str(error.value)
