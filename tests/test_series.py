import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from small_records import SmallPatches, write_records

from tfrecords_builder.writer import write
from tfrs import assemble, pipeline, series, tasks
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.schema import Field, Schema
from tfrs.sensors import sentinel1, sentinel2

LENGTHS = (2, 5, 1, 4, 3, 2, 2)


@dataclass(frozen=True)
class SmallSeries(SmallPatches):
    name = "small_series"
    sensors = (sentinel2(("B02", "B03", "B04", "B08")), sentinel1())
    schema = Schema(
        {
            "key": Field("text"),
            "label": Field("label", scheme="igbp_simplified"),
            "s2": Field("raster", "uint16", (-1, 4, 8, 8)),
            "s1": Field("raster", "float32", (-1, 2, 8, 8)),
        },
        {"igbp_simplified": SmallPatches.schema.schemes["igbp_simplified"]},
    )

    def read(self, root, key):
        number = int(key)
        rng, length = np.random.default_rng(number), LENGTHS[number]
        s2, s1 = rng.integers(1, 9999, (length, 4, 8, 8)).astype("uint16"), rng.normal(size=(length, 2, 8, 8)).astype("float32")
        return {"key": key, "label": number, "s2": s2, "s1": s1}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    return write(SmallSeries(), folder, folder, {"train": [str(n) for n in range(7)], "val": ["3"]}, shard_mb=0.002)


@pytest.fixture(scope="module")
def task(records):
    return tasks.create("", records.schema, threshold=0.1, inclusive=False, label_smoothing=0.0)


def test_a_batch_is_padded_to_its_longest_and_masked(records, task):
    assert len(records.shards("train")) > 1
    dataset = series.load(records, "train", inputs="s2:B08,B02+s1:VH", task=task, batch_size=4)
    assert len(dataset) == 2
    shapes = []
    for images, target, weight in dataset.as_numpy_iterator():
        shapes.append((images["s2"].shape, images["s1"].shape, weight.tolist()))
        for row, number in enumerate(target):
            sample, length = SmallSeries().read(None, str(number)), LENGTHS[number]
            assert images["mask"][row].tolist() == [True] * length + [False] * (images["mask"].shape[1] - length)
            np.testing.assert_array_equal(images["s2"][row, :length], sample["s2"][:, [3, 0]])
            np.testing.assert_array_equal(images["s1"][row, :length], sample["s1"][:, [1]])
            assert not images["s2"][row, length:].any()
            assert not images["s1"][row, length:].any()
    assert shapes == [((4, 5, 2, 8, 8), (4, 5, 1, 8, 8), [1, 1, 1, 1]), ((4, 3, 2, 8, 8), (4, 3, 1, 8, 8), [1, 1, 1, 0])]


def test_an_epoch_has_every_record_once_in_the_order_of_its_seed(records, task):
    dataset = series.load(records, "train", inputs="s1", task=task, batch_size=2, seed=7)
    epochs = [[n for _, target, w in dataset.as_numpy_iterator() for n in target[w > 0].tolist()] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 2
    assert epochs[0] != epochs[1]
    continued = series.load(records, "train", inputs="s1", task=task, batch_size=2, seed=7, epoch=1)
    assert [n for _, target, w in continued.as_numpy_iterator() for n in target[w > 0].tolist()] == epochs[1]


def test_each_kind_of_records_has_its_loader(records, task, tmp_path):
    for options in ({}, {"date": "last"}):
        with pytest.raises(UserError, match=r"hold series of images; .*\(--date=first, --date=random\), .*--form=single"):
            pipeline.load(records, "train", inputs="s1", task=task, batch_size=2, **options)
    single = write_records(tmp_path, train=2)
    with pytest.raises(UserError, match="hold single images; build records with --form=series"):
        series.load(single, "train", inputs="s1", task=task, batch_size=2)
    with pytest.raises(UserError, match="hold single images; --date=random is for series"):
        pipeline.load(single, "train", inputs="s1", task=task, batch_size=2, date="random")
    with pytest.raises(UserError, match="unknown split"):
        series.load(records, "test", inputs="s1", task=task, batch_size=2)


def dates_of(dataset):
    """Number of the image taken of each record, the same of both sensors, in one epoch."""
    found = {}
    for images, target, weight in dataset.as_numpy_iterator():
        for s2, s1, number in zip(images["s2"], images["s1"], target[weight > 0], strict=False):
            sample = SmallSeries().read(None, str(number))
            (date,) = (i for i in range(LENGTHS[number]) if np.array_equal(s2, sample["s2"][i, [3, 0]]))
            np.testing.assert_array_equal(s1, sample["s1"][date])
            found[int(number)] = date
    return [found[number] for number in range(len(LENGTHS))]


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_a_model_of_single_images_sees_another_date_each_epoch(records, task, read):
    options = {"inputs": "s2:B08,B02+s1:VV,VH", "task": task, "batch_size": 3, "read": read}
    dataset = pipeline.load(records, "train", date="random", seed=1, **options)
    epochs = [dates_of(dataset) for _ in range(40)]
    for number, length in enumerate(LENGTHS):
        assert {dates[number] for dates in epochs} == set(range(length))
    other = {"random": "sequential", "sequential": "random"}[read]
    assert dates_of(pipeline.load(records, "train", date="random", seed=1, epoch=3, **options | {"read": other})) == epochs[3]
    assert dates_of(pipeline.load(records, "train", date="first", **options)) == [0] * len(LENGTHS)
    still = pipeline.load(records, "train", date="random", **options)
    assert dates_of(still) == dates_of(still) != [0] * len(LENGTHS)


def test_evaluation_takes_the_same_dates_each_time(records, task):
    experiment = Experiment(input="s2:B08,B02+s1:VV,VH", date="random", batch_size=3)
    val = [assemble.batches(experiment, records, task, "train") for _ in range(2)]
    assert dates_of(val[0]) == dates_of(val[0]) == dates_of(val[1])
    train = assemble.batches(experiment, records, task, "train", training=True)
    assert dates_of(train) != dates_of(train)


def test_the_index_is_rebuilt_with_the_lengths(records, tmp_path):
    copy = shutil.copytree(records.directory, tmp_path / "copy")
    (copy / "index-train.npy").unlink()
    assert type(records)(copy).index("train")["steps_s2"].tolist() == list(LENGTHS)
    assert json.loads((copy / "manifest.json").read_text())["schema"]["fields"]["s2"]["shape"] == [-1, 4, 8, 8]


def test_a_sample_of_another_shape_is_refused():
    sample = SmallSeries().read(None, "0")
    with pytest.raises(ValueError, match="s2 is uint16"):
        SmallSeries.schema.encode(sample | {"s2": sample["s2"][:, :3]})
    with pytest.raises(ValueError, match="s2 is uint16"):
        SmallSeries.schema.encode(sample | {"s2": sample["s2"][0]})


def test_bytes_that_are_no_series_are_refused():
    field = SmallSeries.schema.fields["s2"]
    assert field.steps(3 * 4 * 8 * 8 * 2) == 3
    for size in (0, 511, 513):
        with pytest.raises(ValueError, match="no series of rasters of 512 bytes"):
            field.steps(size)
