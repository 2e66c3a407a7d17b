import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from pyarrow import parquet

from tfrecords_builder.plan import plan
from tfrecords_builder.writer import write
from tfrs import geotiff, synthetic_bigearthnet
from tfrs.datasets import bigearthnet_v2
from tfrs.datasets.bigearthnet_v2 import BigEarthNetV2
from tfrs.errors import BadPatch, UserError
from tfrs.geotiff import Raster
from tfrs.labels import BIGEARTHNET_43, merge_matrix

REAL = Path(os.environ.get("TFRS_SHARED", Path(__file__).parents[2].parent / "shared")) / "data" / "bigearthnet_v2"
S2, S1, MAPS = "BigEarthNet-S2", "BigEarthNet-S1", "Reference_Maps"
TILE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
KEY = f"{TILE}_75_43"
SCENE = "S1A_IW_GRDH_1SDV_20170613T165043"
ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


def table(*rows):
    columns = ("patch_id", "labels", "split", "country", "s1_name", "s2v1_name")
    flags = {"contains_seasonal_snow": False, "contains_cloud_or_shadow": False}
    return pa.Table.from_pylist([{**flags, **dict(zip(columns, row, strict=False))} for row in rows])


@pytest.fixture
def real(tmp_path):
    """The real Sentinel-2 patch; the real Sentinel-1 patch and reference map lie elsewhere, so their pixels are moved to it."""
    if not REAL.exists():
        pytest.skip("no real patches (TFRS_SHARED)")
    root = tmp_path / "bigearthnet_v2"
    shutil.copytree(REAL / S2 / TILE / KEY, root / S2 / TILE / KEY)
    grid = geotiff.read(REAL / S2 / TILE / KEY / f"{KEY}_B02.tif")
    targets = {
        **{f"_{band}.tif": root / S1 / SCENE / f"{SCENE}_33UUP_75_43" for band in ("VV", "VH")},
        "_reference_map.tif": root / MAPS / TILE / KEY,
    }
    sources = {}
    for ending, folder in targets.items():
        (source,) = REAL.rglob(f"*{ending}")
        folder.mkdir(parents=True, exist_ok=True)
        sources[ending] = tifffile.imread(source)
        geotiff.write(folder / f"{folder.name}{ending}", Raster(sources[ending][None], grid.crs, grid.transform))
    rows = [(KEY, ["Mixed forest", "Arable land"], "validation", "Austria", f"{SCENE}_33UUP_75_43", "")]
    parquet.write_table(table(*rows), root / "metadata.parquet")
    return root, sources


def test_real_patch_builds_and_equals_tifffile(real, tmp_path):
    root, sources = real
    dataset = BigEarthNetV2(native_resolution=True)
    records = write(dataset, root, tmp_path / "records", plan(dataset, root))
    assert (list(records.manifest["splits"]), records.count("val")) == (["val"], 1)
    sample = dataset.read(root, KEY)
    for sensor in dataset.optical:
        expected = np.stack([tifffile.imread(REAL / S2 / TILE / KEY / f"{KEY}_{band}.tif") for band in sensor.bands])
        np.testing.assert_array_equal(sample[sensor.name], expected)
    np.testing.assert_array_equal(sample["s1"], np.stack([sources["_VV.tif"], sources["_VH.tif"]]))
    np.testing.assert_array_equal(sample["reference_map"][0], sources["_reference_map.tif"])
    assert (sample["labels"].tolist(), sample["date"], sample["crs"]) == ([2, 10], "2017-06-13", "EPSG:32633")
    assert sample["transform"].tolist() == [10, 0, 390000, 0, -10, 5348400]


def test_all_bands_of_the_real_patch_in_order(real):
    root, _ = real
    s2 = BigEarthNetV2(resampling="nearest").read(root, KEY)["s2"]
    for band, plane in zip(ORDER, s2, strict=True):
        expected = tifffile.imread(REAL / S2 / TILE / KEY / f"{KEY}_{band}.tif")
        np.testing.assert_array_equal(plane, expected.repeat(120 // len(expected), 0).repeat(120 // len(expected), 1))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "bigearthnet_v2"
    synthetic_bigearthnet.v2(root, 20, 3)
    return root


@pytest.fixture
def tree(simulated, tmp_path):
    bigearthnet_v2._metadata.cache_clear()
    return Path(shutil.copytree(simulated, tmp_path / "bigearthnet_v2"))


def test_simulated_archive(simulated):
    dataset = BigEarthNetV2()
    splits = {split: dataset.index(simulated, split) for split in dataset.splits}
    assert {split: len(keys) for split, keys in splits.items()} == {"train": 11, "val": 4, "test": 4}
    assert dataset.left_out(simulated) == {
        "with seasonal snow": 1,
        "with clouds or their shadows": 0,
        "without a label of the 19 classes": 0,
        "listed, but not there": 0,
    }
    for key in dataset.keys(simulated):
        sample = dataset.read(simulated, key)
        dataset.schema.encode(sample)
        # The dense labels lead to the patch labels, through the declared merge.
        present = np.isin(BIGEARTHNET_43.numbers, sample["reference_map"])
        assert sample["labels"].tolist() == np.flatnonzero(present @ merge_matrix("bigearthnet_43", "bigearthnet_19")).tolist()


def test_unrecommended_patches_are_kept_in_their_split(simulated):
    kept, usual = BigEarthNetV2(keep_unrecommended=True), BigEarthNetV2()
    (extra,) = kept.keys(simulated) - usual.keys(simulated)
    kept.schema.encode(kept.read(simulated, extra))
    assert "with seasonal snow" not in kept.left_out(simulated)


def test_second_table_of_unrecommended_patches(tree):
    rows = parquet.read_table(tree / "metadata.parquet")
    snow = rows["contains_seasonal_snow"].to_numpy()
    parquet.write_table(rows.filter(pa.array(~snow)), tree / "metadata.parquet")
    parquet.write_table(rows.filter(pa.array(snow)), tree / "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
    assert (len(BigEarthNetV2().keys(tree)), len(BigEarthNetV2(keep_unrecommended=True).keys(tree))) == (19, 20)


def test_without_sentinel1_and_reference_maps(tree):
    shutil.rmtree(tree / S1)
    with pytest.raises(UserError, match=r"has no BigEarthNet-S1; .* --nos1"):
        BigEarthNetV2().index(tree, "train")
    shutil.rmtree(tree / MAPS)
    with pytest.raises(UserError, match=r"has no Reference_Maps; .* --noreference_map"):
        BigEarthNetV2(s1=False).index(tree, "train")
    dataset = BigEarthNetV2(s1=False, reference_map=False)
    sample = dataset.read(tree, dataset.index(tree, "train")[0])
    assert sample.keys() == {"key", "crs", "transform", "date", "labels", "s2"} == dataset.schema.fields.keys()


@pytest.mark.parametrize("column", ["patch_id", "labels", "split", "s1_name", "contains_seasonal_snow"])
def test_parquet_without_a_needed_column(tree, column):
    path = tree / "metadata.parquet"
    parquet.write_table(parquet.read_table(path).drop_columns([column]), path)
    with pytest.raises(UserError, match=rf"metadata\.parquet: has no column {column}"):
        BigEarthNetV2().index(tree, "train")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("labels", "Pastures", "column labels holds (large_)?string, expected lists of text"),
        ("labels", None, "column labels has 1 empty cells"),
        ("patch_id", None, "column patch_id has 1 empty cells"),
        ("contains_seasonal_snow", "False", "column contains_seasonal_snow holds (large_)?string, expected booleans"),
        ("contains_cloud_or_shadow", None, "column contains_cloud_or_shadow has 1 empty cells"),
    ],
)
def test_parquet_with_cells_of_another_kind(tree, column, value, message):
    path = tree / "metadata.parquet"
    rows = parquet.read_table(path).to_pylist()
    for row in rows if value else rows[:1]:
        row[column] = value
    parquet.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(UserError, match=rf"metadata\.parquet: {message}"):
        BigEarthNetV2().index(tree, "train")


@pytest.mark.parametrize(
    "content, reason",
    [(None, "no such file; put BigEarthNet's metadata.parquet there"), (b"PAR1 torn", "cannot be read as Parquet")],
)
def test_parquet_missing_or_torn(tree, content, reason):
    path = tree / "metadata.parquet"
    path.unlink()
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        BigEarthNetV2().index(tree, "train")


def with_cell(tree, column, value):
    """The table with another value in the first row of the training split; its key."""
    path = tree / "metadata.parquet"
    rows = parquet.read_table(path).to_pylist()
    row = next(row for row in rows if row["split"] == "train" and row["patch_id"] in BigEarthNetV2().index(tree, "train"))
    key, row[column] = row["patch_id"], value
    parquet.write_table(pa.Table.from_pylist(rows), path)
    bigearthnet_v2._metadata.cache_clear()
    bigearthnet_v2._keys.cache_clear()
    return key


def test_unknown_split(tree):
    with_cell(tree, "split", "holdout")
    with pytest.raises(UserError, match=r"split 'holdout' is none of train, val, validation, test"):
        BigEarthNetV2().index(tree, "train")


@pytest.mark.parametrize(
    "column, value, place, reason",
    [
        ("labels", ["Bare rock"], "metadata.parquet", "label 'Bare rock' of S2A.* is none of the 19 classes"),
        ("s1_name", None, "metadata.parquet", "s1_name is empty"),
        ("s1_name", "S1A_IW_GRDH_1SDV_20170101T000000_33UUP_0_0", "_VV.tif", "no such file"),
    ],
)
def test_row_that_does_not_fit(tree, column, value, place, reason):
    key = with_cell(tree, column, value)
    with pytest.raises(BadPatch, match=reason) as caught:
        BigEarthNetV2().read(tree, key)
    assert caught.value.path.endswith(place)


def rewrite(path, **changes):
    geotiff.write(path, Raster(**{**vars(geotiff.read(path)), **changes}))


@pytest.mark.parametrize(
    "folder, ending, changes, reason",
    [
        (S2, "_B02.tif", {"crs": "EPSG:32601"}, "CRS is EPSG:32601, but tile"),
        (S2, "_B12.tif", None, "no such file"),
        (MAPS, "_reference_map.tif", None, "no such file"),
        (MAPS, "_reference_map.tif", {"data": np.full((1, 120, 120), 77, np.uint16)}, "values that are no CORINE codes: 77"),
        (MAPS, "_reference_map.tif", {"data": np.zeros((1, 120, 120), np.uint16)}, "every value is 0"),
        (MAPS, "_reference_map.tif", {"transform": (10.0, 0, 0, 0, -10.0, 0)}, "transform"),
    ],
)
def test_damaged_patch_is_named_with_its_reason(tree, folder, ending, changes, reason):
    key = BigEarthNetV2().index(tree, "train")[0]
    (path,) = (tree / folder).rglob(f"{key}{ending}")
    if changes:
        rewrite(path, **changes)
    else:
        path.unlink()
    with pytest.raises(BadPatch, match=reason) as caught:
        BigEarthNetV2().read(tree, key)
    assert caught.value.path == str(path)


def test_pixels_without_a_class_are_kept_as_they_are(tree):
    """Glaciers are no class of BigEarthNet, and 0 is no label: both are data of the map."""
    key = BigEarthNetV2().index(tree, "train")[0]
    (path,) = (tree / MAPS).rglob(f"{key}_reference_map.tif")
    codes = np.full((1, 120, 120), 335, np.uint16)
    codes[0, :60] = 0
    rewrite(path, data=codes)
    np.testing.assert_array_equal(BigEarthNetV2().read(tree, key)["reference_map"], codes)


def test_key_without_a_row_or_form(tree):
    with pytest.raises(BadPatch, match="has no row for"):
        BigEarthNetV2().read(tree, KEY)
    with pytest.raises(BadPatch, match="not a patch name"):
        BigEarthNetV2().read(tree, "../secret")


def test_no_patches(tmp_path):
    with pytest.raises(UserError, match=r"no bigearthnet_v2 patch found"):
        BigEarthNetV2().index(tmp_path, "train")
