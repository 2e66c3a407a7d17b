import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.enums import Resampling

from tfrecords_builder.plan import plan
from tfrs import geotiff, synthetic_bigearthnet
from tfrs.datasets import bigearthnet
from tfrs.datasets.bigearthnet import BigEarthNet, Lists
from tfrs.datasets.bigearthnet_patch import BANDS
from tfrs.errors import BadPatch, UserError
from tfrs.resampling import METHODS

REAL = Path(os.environ.get("TFRS_SHARED", Path(__file__).parents[2].parent / "shared")) / "data" / "bigearthnet_v1"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="no real patches (TFRS_SHARED)")
S2, S1 = "BigEarthNet-v1.0", "BigEarthNet-S1-v1.0"
ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")

# Patch -> partner, corner, CRS, date, 43-class and 19-class ids, read off the JSON files by hand.
PAIRS = {
    "S2A_MSIL2A_20170613T101031_87_48": (
        *("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48", (404400, 5342400), "EPSG:32633", "2017-06-13"),
        *([11, 20], [2, 6]),
    ),
    "S2A_MSIL2A_20170617T113321_36_85": (
        *("S1A_IW_GRDH_1SDV_20170617T064724_29UPU_36_85", (643200, 5798040), "EPSG:32629", "2017-06-17"),
        *([11, 17], [2, 4]),
    ),
    "S2A_MSIL2A_20171221T112501_56_35": (
        *("S1A_IW_GRDH_1SDV_20171221T064238_29SND_56_35", (567180, 4358040), "EPSG:32629", "2017-12-21"),
        *([19, 20, 22, 28], [5, 6, 8, 13]),
    ),
    "S2B_MSIL2A_20180204T94161_57_38": (
        *("S1A_IW_GRDH_1SDV_20180204T043253_35VPK_57_38", (668400, 6954420), "EPSG:32635", "2018-02-04"),
        *([11, 23, 24], [2, 9, 10]),
    ),
}


@needs_real
@pytest.mark.parametrize("key", PAIRS)
def test_real_pair_equals_tifffile(key):
    partner, corner, crs, date, labels_43, labels = PAIRS[key]
    sample = BigEarthNet(resampling="nearest").read(REAL, key)
    for band, plane in zip(ORDER, sample["s2"], strict=True):
        expected = tifffile.imread(REAL / S2 / key / f"{key}_{band}.tif")
        np.testing.assert_array_equal(plane, expected.repeat(120 // len(expected), 0).repeat(120 // len(expected), 1))
    for band, plane in zip(("VV", "VH"), sample["s1"], strict=True):
        np.testing.assert_array_equal(plane, tifffile.imread(REAL / S1 / partner / f"{partner}_{band}.tif"))
    assert (sample["s2"].dtype, sample["s1"].dtype) == (np.uint16, np.float32)
    assert (sample["key"], sample["crs"], sample["date"]) == (key, crs, date)
    assert sample["transform"].tolist() == [10, 0, corner[0], 0, -10, corner[1]]
    assert (sample["labels_43"].tolist(), sample["labels"].tolist()) == (labels_43, labels)


@needs_real
def test_native_resolution_equals_tifffile():
    key = "S2B_MSIL2A_20180204T94161_57_38"
    dataset = BigEarthNet(native_resolution=True, s1=False)
    sample = dataset.read(REAL, key)
    bands = {
        "s2_10m": ("B02", "B03", "B04", "B08"),
        "s2_20m": ("B05", "B06", "B07", "B8A", "B11", "B12"),
        "s2_60m": ("B01", "B09"),
    }
    assert {sensor.name: sensor.bands for sensor in dataset.sensors} == bands
    for name, members in bands.items():
        expected = np.stack([tifffile.imread(REAL / S2 / key / f"{key}_{band}.tif") for band in members])
        np.testing.assert_array_equal(sample[name], expected)
    parsed = dataset.schema.parse(dataset.schema.encode(sample))
    np.testing.assert_array_equal(parsed["s2_60m"], sample["s2_60m"])


@needs_real
@pytest.mark.parametrize("method", METHODS)
def test_resampling_is_that_asked_for(method):
    key = "S2A_MSIL2A_20170613T101031_87_48"
    sample = BigEarthNet(resampling=method).read(REAL, key)
    for band in BANDS:
        with rasterio.open(REAL / S2 / key / f"{key}_{band}.tif") as source:
            expected = source.read(1, out_shape=(120, 120), resampling=Resampling[method])
        np.testing.assert_array_equal(sample["s2"][BANDS.index(band)], expected)


def test_resampling_is_bilinear_unless_asked_for_and_unknown_is_refused():
    assert BigEarthNet().resampling == "bilinear"
    with pytest.raises(UserError, match=r"'bilinar'. Did you mean 'bilinear'"):
        BigEarthNet(resampling="bilinar")


@needs_real
def test_real_lists_give_the_published_counts(tmp_path, monkeypatch):
    """Over the names of all 590,326 patches, without a single file of them."""
    with zipfile.ZipFile(REAL / "splits.zip") as archive:
        names = np.unique([name for member in archive.namelist() for name in archive.read(member).split()])
    assert len(names) == 590_326
    monkeypatch.setattr(bigearthnet, "_patch_names", lambda root: names)
    (tmp_path / S2).mkdir()
    dataset = BigEarthNet(s1=False, split_lists=str(REAL / "splits.zip"))
    assert [len(dataset.index(tmp_path, split)) for split in dataset.splits] == [269_695, 123_723, 125_866]
    assert dataset.left_out(tmp_path) == {
        "with seasonal snow": 61_707,
        "with clouds or their shadows": 9_280,
        "without a label of the 19 classes": 57,
        "listed, but not there": 0,
        "in no list": 0,
    }
    everything = BigEarthNet(s1=False, split_lists=str(REAL / "splits.zip"), keep_unrecommended=True)
    assert [len(everything.index(tmp_path, split)) for split in dataset.splits] == [
        590_326 - 123_723 - 125_866,
        123_723,
        125_866,
    ]


@needs_real
def test_real_lists_over_the_four_real_pairs():
    dataset = BigEarthNet()
    assert dataset.index(REAL, "train") == ["S2A_MSIL2A_20170617T113321_36_85", "S2A_MSIL2A_20171221T112501_56_35"]
    assert dataset.index(REAL, "val") == []
    assert dataset.index(REAL, "test") == ["S2A_MSIL2A_20170613T101031_87_48"]
    assert dataset.left_out(REAL)["with seasonal snow"] == 1


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "bigearthnet"
    synthetic_bigearthnet.v1(root, 20, 3)
    return root


@pytest.fixture
def tree(simulated, tmp_path):
    """A copy of the simulated patches to break."""
    return Path(shutil.copytree(simulated, tmp_path / "bigearthnet"))


def first(root, split="train"):
    key = BigEarthNet().index(root, split)[0]
    return key, root / S2 / key


def partner(root, key):
    for path in (root / S1).glob("*/*.json"):
        if json.loads(path.read_text())["corresponding_s2_patch"] == key:
            return path.parent
    raise AssertionError(key)


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_simulated_archive_reads_and_keeps_its_patches_apart(simulated):
    dataset = BigEarthNet()
    splits = {split: dataset.index(simulated, split) for split in dataset.splits}
    assert {split: len(keys) for split, keys in splits.items()} == {"train": 11, "val": 4, "test": 4}
    assert dataset.left_out(simulated)["with seasonal snow"] == 1
    for key in dataset.keys(simulated):
        sample = dataset.read(simulated, key)
        dataset.schema.encode(sample)
        vv = tifffile.imread(next(partner(simulated, key).glob("*_VV.tif")))
        np.testing.assert_array_equal(sample["s1"][0], vv)
        assert sample["date"].replace("-", "") in key
    kept = BigEarthNet(keep_unrecommended=True)
    assert len(kept.index(simulated, "train")) == 12
    assert dataset.keys(simulated) == {key for keys in splits.values() for key in keys}


def test_simulation_does_not_depend_on_the_number(simulated, tmp_path):
    synthetic_bigearthnet.v1(tmp_path / "few", 2, 3)
    for path in (tmp_path / "few" / S2).rglob("*.tif"):
        assert path.read_bytes() == (simulated / path.relative_to(tmp_path / "few")).read_bytes()


def test_lists_in_a_zip_or_beside_the_root_or_named(tree, tmp_path):
    expected = BigEarthNet().index(tree, "train")
    (tree / "splits").rename(tmp_path / "splits")
    assert BigEarthNet().index(tree, "train") == expected
    with zipfile.ZipFile(tree / "splits.zip", "w") as archive:
        for path in (tmp_path / "splits").iterdir():
            archive.write(path, f"lists/{path.name}")
    (tmp_path / "splits").rename(tmp_path / "elsewhere")
    assert BigEarthNet().index(tree, "train") == expected
    (tree / "splits.zip").unlink()
    assert BigEarthNet(split_lists=str(tmp_path / "elsewhere")).index(tree, "train") == expected
    with pytest.raises(UserError, match=r"no train\.csv, val\.csv and test\.csv .* splits.* --split_lists.* --split_file"):
        BigEarthNet().index(tree, "train")


def test_lists_of_exclusions_are_needed_only_to_keep_them(tree):
    snow = tree / "splits" / "patches_with_seasonal_snow.csv"
    before = BigEarthNet().index(tree, "train")
    snow.unlink()
    assert BigEarthNet().index(tree, "train") == before
    with pytest.raises(UserError, match=r"splits: no list patches_with_seasonal_snow\.csv"):
        BigEarthNet(keep_unrecommended=True).index(tree, "train")


def test_a_list_of_something_else_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("patch,label\nRiver_1,3\n")
    with pytest.raises(UserError, match=r"train\.csv: .* is no patch name"):
        Lists(tmp_path).read("train.csv")


def test_split_file_needs_no_official_lists(tree, tmp_path):
    key, _ = first(tree)
    shutil.rmtree(tree / "splits")
    (tmp_path / "val.txt").write_text(f"{key}\n")
    splits = plan(BigEarthNet(), tree, split_files={"train": "rest", "val": str(tmp_path / "val.txt")})
    assert (len(splits["train"]), splits["val"]) == (19, [key])


def test_patch_that_is_listed_but_not_there_is_counted(tree):
    key, folder = first(tree)
    shutil.rmtree(folder)
    bigearthnet._patch_names.cache_clear()
    assert key not in BigEarthNet().index(tree, "train")
    assert BigEarthNet().left_out(tree)["listed, but not there"] == 1


def test_sentinel2_alone(tree):
    shutil.rmtree(tree / S1)
    with pytest.raises(UserError, match=r"has no BigEarthNet-S1-v1\.0; .* --nos1"):
        BigEarthNet().index(tree, "train")
    dataset = BigEarthNet(s1=False)
    sample = dataset.read(tree, dataset.index(tree, "train")[0])
    assert "s1" not in sample
    assert [sensor.name for sensor in dataset.sensors] == ["s2"]
    dataset.schema.encode(sample)


def test_partner_is_the_one_the_json_names(tree):
    """Two dates at one place: the names of their Sentinel-1 patches do not say which is whose."""
    key, _ = first(tree)
    mine = partner(tree, key)
    other = mine.with_name(mine.name.replace("S1B", "S1A"))
    shutil.copytree(mine, other)
    for path in list(other.iterdir()):
        path.rename(other / path.name.replace("S1B", "S1A"))
    change(other / f"{other.name}_labels_metadata.json", corresponding_s2_patch="S2A_MSIL2A_20170716T101031_0_0")
    np.testing.assert_array_equal(BigEarthNet().read(tree, key)["s1"][0], tifffile.imread(mine / f"{mine.name}_VV.tif"))


def drop_band(root, key, folder):
    (folder / f"{key}_B8A.tif").unlink()


def drop_partner(root, key, folder):
    shutil.rmtree(partner(root, key))


def drop_vh(root, key, folder):
    s1 = partner(root, key)
    (s1 / f"{s1.name}_VH.tif").unlink()


def no_labels(root, key, folder):
    change(folder / f"{key}_labels_metadata.json", labels=[])


def labels_of_another_kind(root, key, folder):
    change(folder / f"{key}_labels_metadata.json", labels=5)


def no_json(root, key, folder):
    (folder / f"{key}_labels_metadata.json").unlink()


def torn_json(root, key, folder):
    path = folder / f"{key}_labels_metadata.json"
    path.write_text(path.read_text()[:50])


def unknown_label(root, key, folder):
    change(folder / f"{key}_labels_metadata.json", labels=["Glaciers and perpetual snow"])


def only_dropped_labels(root, key, folder):
    change(folder / f"{key}_labels_metadata.json", labels=["Airports", "Bare rock"])


def wrong_date(root, key, folder):
    change(folder / f"{key}_labels_metadata.json", acquisition_date="2016-01-02 10:00:00")


def wrong_s1_date(root, key, folder):
    s1 = partner(root, key)
    change(s1 / f"{s1.name}_labels_metadata.json", acquisition_time="2016-01-02T10:00:00")


def wrong_corners(root, key, folder):
    change(folder / f"{key}_labels_metadata.json", coordinates={"ulx": 0, "uly": 0, "lrx": 1200, "lry": -1200})


def rewrite(folder, band, **changes):
    path = folder / f"{folder.name}_{band}.tif"
    raster = geotiff.read(path)
    geotiff.write(path, type(raster)(**{**vars(raster), **changes}))


def other_crs(root, key, folder):
    for band in ORDER:
        rewrite(folder, band, crs="EPSG:32632")


def one_band_in_other_crs(root, key, folder):
    rewrite(folder, "B11", crs="EPSG:32632")


def shifted_band(root, key, folder):
    rewrite(folder, "B09", transform=(60.0, 0.0, 0.0, 0.0, -60.0, 0.0))


def shifted_s1(root, key, folder):
    rewrite(partner(root, key), "VV", transform=(10.0, 0.0, 0.0, 0.0, -10.0, 0.0))


def wrong_size(root, key, folder):
    rewrite(folder, "B05", data=np.ones((1, 120, 120), np.uint16))


def integer_s1(root, key, folder):
    rewrite(partner(root, key), "VH", data=np.ones((1, 120, 120), np.int16))


def nan_s1(root, key, folder):
    rewrite(partner(root, key), "VV", data=np.full((1, 120, 120), np.nan, np.float32))


@pytest.mark.parametrize(
    "damage, place, reason",
    [
        (drop_band, "_B8A.tif", "no such file"),
        (drop_partner, S1, "no Sentinel-1 patch of S2A"),
        (drop_vh, "_VH.tif", "no such file"),
        (no_labels, "_labels_metadata.json", "has no labels"),
        (labels_of_another_kind, "_labels_metadata.json", "labels is no list but 5"),
        (no_json, "_labels_metadata.json", "no such file"),
        (torn_json, "_labels_metadata.json", "cannot be read as JSON"),
        (unknown_label, "_labels_metadata.json", "'Glaciers and perpetual snow' is none of the 43 classes"),
        (only_dropped_labels, "_labels_metadata.json", "none of its labels .* --keep_unrecommended"),
        (wrong_date, "_labels_metadata.json", "acquisition_date is 2016-01-02 10:00:00, but .* 2017-"),
        (wrong_s1_date, "_labels_metadata.json", "acquisition_time is 2016-01-02T10:00:00"),
        (wrong_corners, "_labels_metadata.json", r"corners \[0, 0, 1200, -1200\]"),
        (other_crs, "_B02.tif", "CRS is EPSG:32632, but tile .* EPSG:32633"),
        (one_band_in_other_crs, "_B11.tif", "CRS EPSG:32632 differs"),
        (shifted_band, "_B09.tif", "transform .* differs"),
        (shifted_s1, "_VV.tif", "transform .* differs"),
        (wrong_size, "_B05.tif", "size is 120x120, expected 60x60"),
        (integer_s1, "_VH.tif", "dtype is int16, expected float32"),
        (nan_s1, "_VV.tif", "NaN"),
    ],
)
def test_damaged_patch_is_named_with_its_reason(tree, damage, place, reason):
    key = next(key for key in BigEarthNet().index(tree, "train") if BigEarthNet().read(tree, key)["crs"] == "EPSG:32633")
    bigearthnet._s1_names.cache_clear()
    damage(tree, key, tree / S2 / key)
    with pytest.raises(BadPatch, match=reason) as caught:
        BigEarthNet().read(tree, key)
    assert caught.value.path.endswith(place)


def test_patch_without_a_class_of_the_19_can_be_kept(tree):
    key, folder = first(tree)
    only_dropped_labels(tree, key, folder)
    sample = BigEarthNet(keep_unrecommended=True).read(tree, key)
    assert (sample["labels"].tolist(), sample["labels_43"].tolist()) == ([], [5, 30])


def test_no_patches(tmp_path):
    with pytest.raises(UserError, match=r"no bigearthnet patch found \(it is empty\); expected BigEarthNet-v1\.0/"):
        BigEarthNet().index(tmp_path, "train")
