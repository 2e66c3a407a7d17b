import copy
import json
from dataclasses import replace

import pytest

from tfrecords_builder import spec, writer
from tfrecords_builder.plan import plan
from tfrecords_builder.writer import write
from tfrs.datasets.eurosat import EuroSat
from tfrs.errors import UserError
from tfrs.labels import EUROSAT
from tfrs.schema import Field, Schema
from tfrs.sensors import sentinel2

SPLITS = {"train": ["River_1", "River_2"], "val": ["River_3"]}
HEAD = spec.head(EuroSat(), SPLITS, 128, {"input": "data/eurosat"})


def test_head_is_the_same_after_it_was_stored():
    assert json.loads(json.dumps(HEAD)) == HEAD
    assert spec.differences(HEAD, copy.deepcopy(HEAD)) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h["spec"].update(seed=3), "seed: 0 there, 3 asked for"),
        (lambda h: h["spec"].update(limit=5), "limit: None there, 5 asked for"),
        (lambda h: h.update(format=2), "format: 1 there, 2 asked for"),
        (
            lambda h: h["sensors"]["s2"]["bands"].reverse(),
            "sensors.s2.bands: ['B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B09', 'B10', 'B11', 'B12', 'B8A'] "
            "there, ['B8A', 'B12', 'B11', 'B10', 'B09', 'B08', 'B07', 'B06', 'B05', 'B04', 'B03', 'B02', 'B01'] asked for",
        ),
        (lambda h: h["schema"]["fields"]["s2"].update(dtype="int16"), "schema.fields.s2.dtype: uint16 there, int16 asked for"),
        (lambda h: h["schema"]["fields"].pop("crs"), "schema.fields.crs: {'kind': 'text'} there, None asked for"),
        (
            lambda h: h["schema"]["schemes"]["eurosat"]["classes"].pop(),
            "schema.schemes.eurosat.classes: ['SeaLake'] there, [] asked for",
        ),
    ],
)
def test_every_difference_is_spelled_out(change, said):
    other = copy.deepcopy(HEAD)
    change(other)
    assert spec.differences(HEAD, other) == said


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (
            {"train": ["River_1", "River_2", "River_4"], "val": ["River_3"]},
            "patches: {'train': 2, 'val': 1} there, {'train': 3, 'val': 1} asked for",
        ),
        ({"train": SPLITS["train"]}, "patches: {'train': 2, 'val': 1} there, {'train': 2} asked for"),
        (
            {"train": ["River_1", "River_5"], "val": ["River_3"]},
            "keys: as many patches of train, but others or in another order",
        ),
        (
            {"train": ["River_2", "River_1"], "val": ["River_5"]},
            "keys: as many patches of train, val, but others or in another order",
        ),
    ],
)
def test_another_list_of_patches_is_told(splits, said):
    assert spec.differences(HEAD, spec.head(EuroSat(), splits, 128, {"input": "data/eurosat"})) == said


class OtherSchema(EuroSat):
    sensors = (replace(sentinel2(EuroSat.sensors[0].bands), nodata=None),)
    schema = Schema({**EuroSat.schema.fields, "date": Field("text")}, {"eurosat": EUROSAT})


@pytest.mark.parametrize("complete", [True, False])
def test_records_of_another_schema_are_refused(eurosat_tree, tmp_path, monkeypatch, complete):
    """As they are after an update of this package that changed its data sets."""
    root, splits = eurosat_tree[0], plan(EuroSat(), eurosat_tree[0])
    with monkeypatch.context() as patch:
        if not complete:
            patch.setattr(writer, "finish", lambda build: None)
            with pytest.raises(UserError, match="the build has not finished"):
                write(EuroSat(), root, tmp_path, splits)
        else:
            write(EuroSat(), root, tmp_path, splits)
    with pytest.raises(UserError) as error:
        write(OtherSchema(), root, tmp_path, splits)
    assert "1.0.0 holds other records (sensors.s2.nodata: 0 there, None asked for; schema.fields.date: None there" in str(
        error.value
    )
