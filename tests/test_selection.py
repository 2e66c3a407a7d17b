import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import rasterio.warp
from hypothesis import given
from hypothesis import strategies as st
from small_records import SmallPatches

from tfrecords_builder.writer import write
from tfrs import pipeline, selection, series, tasks, utm
from tfrs.datasets.base import GEOREFERENCE
from tfrs.errors import UserError
from tfrs.labels import IGBP, IGBP_SIMPLIFIED
from tfrs.records import Records
from tfrs.schema import Field

DATES = ("2017-05-31", "2017-06-01", "2017-06-30", "2018-01-02,2018-03-01")
PLACES = [("EPSG:32632", 300_000.0 + 1000 * n, 5_000_000.0) for n in range(4)]
PLACES += [("EPSG:32733", 500_000.0, 7_000_000.0), ("EPSG:32632", 700_000.0, 5_000_000.0)]


@dataclass(frozen=True)
class Placed(SmallPatches):
    """Small patches with date and place by their number."""

    name = "bigearthnet_v2"
    schema = replace(SmallPatches.schema, fields={**SmallPatches.schema.fields, **GEOREFERENCE, "date": Field("text")})

    def read(self, root, key):
        number = int(key.rpartition("_")[2])
        crs, x, y = PLACES[number % len(PLACES)]
        transform = np.array([10.0, 0, x, 0, -10, y])
        return {**super().read(root, key), "crs": crs, "transform": transform, "date": DATES[number % len(DATES)]}


def key(number):
    scene, tile = ("S2A_MSIL2A_20170613T101031_N9999_R022", "S2B_MSIL2A_20170708T094029_N9999_R036")[number % 2], "33UUP"
    return f"{scene}_T{tile if number % 3 else '29SNB'}_26_{number}"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("placed")
    keys = {"train": [key(n) for n in range(24)], "val": [key(n) for n in range(24, 30)]}
    return write(Placed(), folder, folder, keys, shard_mb=0.1)


def kept(records, *conditions):
    """Numbers in the keys of the records that are left."""
    chosen = selection.where(records, conditions)
    return {int(sample["key"].rpartition("_")[2]) for split in chosen.splits for sample in chosen.samples(split)}


def all_that(records, holds):
    samples = [sample for split in records.splits for sample in records.samples(split)]
    return {int(sample["key"].rpartition("_")[2]) for sample in samples if holds(sample)}


def named(sample, field, scheme):
    return {scheme.classes[i] for i in np.atleast_1d(sample[field])}


def share(sample, name):
    return sample["fractions"][IGBP.classes.index(name)]


CONDITIONS = {
    "label=Forest|Savanna": lambda s: named(s, "label", IGBP_SIMPLIFIED) & {"Forest", "Savanna"},
    "label!=Forest": lambda s: not named(s, "label", IGBP_SIMPLIFIED) & {"Forest"},
    "labels=Water": lambda s: "Water" in named(s, "labels", IGBP_SIMPLIFIED),
    "labels != Water|Forest": lambda s: not named(s, "labels", IGBP_SIMPLIFIED) & {"Water", "Forest"},
    "labels=Shrubland|Water": lambda s: named(s, "labels", IGBP_SIMPLIFIED) & {"Shrubland", "Water"},
    "fractions=Water Bodies": lambda s: share(s, "Water Bodies") > 0,
    "fractions=Water Bodies>0.5": lambda s: share(s, "Water Bodies") > 0.5,
    "fractions=Savannas<=0.3": lambda s: share(s, "Savannas") <= 0.3,
    "fractions=Savannas >= .6|Water Bodies >= .6": lambda s: share(s, "Savannas") >= 0.6 or share(s, "Water Bodies") >= 0.6,
    "key=*_2?|*_7": lambda s: s["key"][-3:-1] == "_2" or s["key"].endswith("_7"),
    "scene=S2A*": lambda s: s["key"].startswith("S2A"),
    "scene=S2A_MSIL2A_20170613T101031_N9999_R022_T29SNB": lambda s: "R022_T29SNB_" in s["key"],
    "tile=29SNB": lambda s: "_T29SNB_" in s["key"],
    "crs=EPSG:327*": lambda s: s["crs"] == "EPSG:32733",
    "date=2017-06": lambda s: s["date"] in DATES[1:3],
    "date=2017": lambda s: s["date"] in DATES[:3],
    "date=2017-06-01..2017-12": lambda s: s["date"] in DATES[1:3],
    "date=..2017-05-31": lambda s: s["date"] == DATES[0],
    "date=2018-02..": lambda s: s["date"] == DATES[3],  # any date of a series
    "date=2017-05-31|2018-01-02": lambda s: s["date"] in (DATES[0], DATES[3]),
    # Of 16 pixels of 10 m, the centre is 80 m to the east and south of the corner.
    "area=EPSG:32632:300080:4999920:301080:4999920.5": lambda s: s["crs"] == "EPSG:32632" and s["transform"][2] < 302_000,
    "area=epsg:32733:499000:6999000:501000:7001000": lambda s: s["crs"] == "EPSG:32733",
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_keeps_the_records_for_which_it_holds(records, condition):
    found = kept(records, condition)
    assert found == all_that(records, CONDITIONS[condition])
    assert 0 < len(found) < 30


def test_conditions_hold_together(records):
    three = list(CONDITIONS)[1], "tile=33UUP", "date=2017"
    assert kept(records, *three) == set.intersection(*(kept(records, condition) for condition in three)) != set()


def test_an_area_in_degrees_holds_the_centres_of_all_zones(records):
    def inside(sample):
        _, _, x, _, _, y = sample["transform"]
        (lon,), (lat,) = rasterio.warp.transform(sample["crs"], "EPSG:4326", [x + 80], [y - 80])
        return 7 < lon < 15.1 and -28 < lat < 45.2

    found = kept(records, "area=7:-28:15.1:45.2")
    assert found == all_that(records, inside)
    assert {n % len(PLACES) for n in found} == {4, 5}


@given(st.integers(1, 60), st.booleans(), st.floats(167_000, 833_000), st.floats(0, 9_300_000))
def test_degrees_are_those_of_proj(zone, south, easting, northing):
    crs = f"EPSG:32{'7' if south else '6'}{zone:02}"
    north = 10_000_000 - northing if south else northing
    lon, lat = utm.degrees(crs, np.array([easting]), np.array([north]))
    (expected_lon,), (expected_lat,) = rasterio.warp.transform(crs, "EPSG:4326", [easting], [north])
    width = np.cos(np.radians(expected_lat))  # of a degree of longitude
    assert abs((lon[0] - expected_lon + 180) % 360 - 180) * width * 111_320 < 0.05
    assert abs(lat[0] - expected_lat) * 111_320 < 0.05


def test_a_choice_has_records_splits_and_words_of_its_own(records):
    chosen = selection.where(records, ["tile=29SNB", "label!=Snow/Ice"])
    assert chosen.selection == "tile=29SNB; label!=Snow/Ice"
    assert chosen.splits == records.splits
    assert (chosen.count("train"), chosen.count("val")) == tuple(len(list(chosen.samples(s))) for s in records.splits)
    assert records.selection == "" and records.count("train") == 24
    assert chosen.statistics == records.statistics
    assert selection.where(records, []) is records
    further = selection.where(chosen, ["date=2017"])
    assert further.selection == "tile=29SNB; label!=Snow/Ice; date=2017"
    assert kept(chosen, "date=2017") == kept(records, "tile=29SNB", "label!=Snow/Ice", "date=2017")


def task(records):
    return tasks.create("single_label", records.schema, threshold=0.1, inclusive=False, label_smoothing=0.0)


@pytest.mark.parametrize("read", ["random", "sequential"])
@pytest.mark.parametrize("seed", [None, 1])
def test_batches_are_those_of_the_choice(records, read, seed):
    chosen = selection.where(records, ["date=2017-06"])
    expected = [sample["s1"].tobytes() for sample in chosen.samples("train")]
    dataset = pipeline.load(chosen, "train", inputs="s1", task=task(records), batch_size=5, read=read, seed=seed)
    assert len(dataset) == -(-len(expected) // 5)
    for _ in range(2):
        found = [i.tobytes() for images, _, w in dataset.as_numpy_iterator() for i in images["s1"][w > 0]]
        assert (found == expected) == (seed is None)
        assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    ("dataset", "key", "parts"),
    [
        ("sen12ms", "ROIs1158_spring_s2_1_p30", {"scene": "ROIs1158_spring_1"}),
        ("bigearthnet", "S2A_MSIL2A_20170613T101031_87_48", {"scene": "S2A_MSIL2A_20170613T101031"}),
        (
            "bigearthnet_v2",
            "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57",
            {"scene": "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "tile": "33UUP"},
        ),
        ("multisenge", "31UGQ_20200805_4626_514", {"tile": "31UGQ", "patch": "31UGQ_4626_514"}),
        ("multisenge", "31UGQ_4626_514", {"tile": "31UGQ", "patch": "31UGQ_4626_514"}),
    ],
)
def test_what_keys_hold(dataset, key, parts):
    patterns = selection.KEYS[dataset]
    assert {name: selection._parts(patterns[name], np.array([key.encode()]))[0].decode() for name in patterns} == parts


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["label"], r"--where has 'label'; give COLUMN=VALUE, e\.g\. label=Forest"),
        (["=3"], r"--where has '=3'; give COLUMN=VALUE"),
        (["lable=Forest"], r"unknown column of .* in --where 'lable'\. Did you mean 'label'\? Known: key, label, .*area"),
        (["s2=3"], r"unknown column .* 's2'"),
        (["label=Forst"], r"unknown class of label 'Forst'\. Did you mean 'Forest'\? Known: Forest, Shrubland"),
        (["labels=Forest|"], r"unknown class of labels ''"),
        (["fractions=Forest>0.5"], r"unknown class of fractions 'Forest'\. Did you mean"),
        (["date=June"], r"--where has date=June; give 2017, 2017-06, 2017-06-13, or FROM\.\.TO"),
        (["date=.."], r"--where has date=\.\.; give"),
        (["date=2020-13"], r"--where has date=2020-13; give"),
        (["date=2020-08..2020-07"], r"--where has date=2020-08\.\.2020-07, which ends before it begins"),
        (["fractions=Croplands>50%"], r"fractions=Croplands>50%; after > stands a share from 0 to 1, e\.g\. >0\.5"),
        (["area=1:2:3"], r"--where has area=1:2:3; give WEST:SOUTH:EAST:NORTH in degrees"),
        (["area=a:b:c:d"], r"--where has area=a:b:c:d; give WEST:SOUTH:EAST:NORTH in degrees"),
        (["area=3:2:1:4"], r"--where has area=3:2:1:4, which is empty"),
        (
            ["tile=29SNB", "key=*_1"],
            r"no record satisfies --where; records that satisfy each condition alone: tile=29SNB: 10, key=\*_1: 1$",
        ),
    ],
)
def test_refusals(records, conditions, message):
    with pytest.raises(UserError, match=message):
        selection.where(records, conditions)


def test_degrees_need_a_utm_zone():
    with pytest.raises(UserError, match=r"'EPSG:3035' is no UTM zone"):
        utm.degrees("EPSG:3035", np.zeros(1), np.zeros(1))


def test_a_split_without_a_chosen_record_is_told(records):
    chosen = selection.where(records, ["key=*_3"])
    with pytest.raises(UserError, match=r"split 'val' has no record of the selection"):
        pipeline.load(chosen, "val", inputs="s1", task=task(records), batch_size=2)


def test_an_index_of_an_older_version_is_read_from_the_shards(records, tmp_path, capsys):
    copied = shutil.copytree(records.directory, tmp_path / "copy")
    table = np.load(copied / "index-train.npy")
    older = [name for name in table.dtype.names if name not in ("number", "crs", "transform", "date")]
    np.save(copied / "index-train.npy", table[older].astype([(n, table.dtype[n]) for n in older]))
    found = Records(copied).index("train")
    assert "index-train.npy is of an older version" in capsys.readouterr().out
    assert found.dtype == table.dtype
    np.testing.assert_array_equal(found, table)


def test_a_condition_on_series_of_dates(tmp_path):
    from test_series import SmallSeries

    records = write(SmallSeries(), tmp_path, tmp_path, {"train": [str(n) for n in range(7)]}, shard_mb=0.002)
    chosen = selection.where(records, ["key=2|5"])
    single = tasks.create("", records.schema, threshold=0.1, inclusive=False, label_smoothing=0.0)
    (batch,) = series.load(chosen, "train", inputs="s1", task=single, batch_size=2).as_numpy_iterator()
    assert batch[1].tolist() == [2, 5]
