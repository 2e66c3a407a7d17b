import json
from dataclasses import replace

import numpy as np
import pytest

from tfrecords_builder.plan import plan
from tfrecords_builder.verify import find_problems
from tfrecords_builder.writer import write
from tfrs import geotiff
from tfrs.datasets.multisenge import MultiSenGE
from tfrs.errors import BadPatch, UserError
from tfrs.geotiff import Raster

DAYS = {"s2": ("20200720", "20200805", "20200904"), "s1": ("20200718", "20200721", "20200805", "20200908")}
NAME, KEY = "31UGQ_2570_5140", "31UGQ_20200720_2570_5140"
CORNER = (699960.0 + 25700, 5500020.0 - 51400)


def write_patch(root, name=NAME, *, labels="2;6;9", dtype="uint16", crs="EPSG:32631", corner=CORNER, seed=0, **changes):
    """A patch of random pixels, the ground reference of classes 2, 6 and 9; the arrays by file name."""
    rng, (tile, x, y) = np.random.default_rng(seed), name.split("_")
    reference = np.kron([[2, 6], [9, 9]], np.ones((128, 128), int))[None].astype("uint8")
    arrays = {f"ground_reference/{tile}_GR_{x}_{y}.tif": reference}
    for day in DAYS["s2"]:
        arrays[f"s2/{tile}_{day}_S2_{x}_{y}.tif"] = rng.integers(1, 10000, (10, 256, 256)).astype(dtype)
    for day in DAYS["s1"]:
        arrays[f"s1/{tile}_{day}_S1_{x}_{y}.tif"] = rng.normal(-12, 4, (2, 256, 256)).astype("float32")
    for path, pixels in arrays.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        geotiff.write(root / path, Raster(pixels, crs, (10.0, 0.0, corner[0], 0.0, -10.0, corner[1])))
    content = {
        "corresponding_s2": ";".join(f"{tile}_{day}_S2_{x}_{y}.tif" for day in reversed(DAYS["s2"])),
        "corresponding_s1": ";".join(f"{tile}_{day}_S1_{x}_{y}.tif" for day in reversed(DAYS["s1"])),
        "labels": labels,
        "projection": geotiff.wkt("EPSG:32631"),
    } | changes
    (root / "labels").mkdir(exist_ok=True)
    (root / "labels" / f"{name}.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return arrays


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_a_record_is_what_the_files_hold(tmp_path, dtype):
    arrays = write_patch(tmp_path, dtype=dtype)
    sample = MultiSenGE().read(tmp_path, KEY)
    assert (sample["key"], sample["crs"]) == (KEY, "EPSG:32631")
    assert sample["transform"].tolist() == [10, 0, CORNER[0], 0, -10, CORNER[1]]
    # 21 July is one day from 20 July, 18 July two.
    assert (sample["date"], sample["s1_date"]) == ("2020-07-20", "2020-07-21")
    assert sample["labels"].tolist() == [1, 5, 8]
    assert sample["fractions"].tolist() == [0, 0.25, 0, 0, 0, 0.25, 0, 0, 0.5, 0, 0, 0, 0, 0]
    assert sample["s2"].dtype == "uint16"
    np.testing.assert_array_equal(sample["s2"], arrays["s2/31UGQ_20200720_S2_2570_5140.tif"])
    np.testing.assert_array_equal(sample["s1"], arrays["s1/31UGQ_20200721_S1_2570_5140.tif"])
    np.testing.assert_array_equal(sample["ground_reference"], arrays["ground_reference/31UGQ_GR_2570_5140.tif"])
    assert MultiSenGE().schema.encode(sample)


def test_order_of_the_bands_is_the_declared_one():
    bands = "B02 B03 B04 B05 B06 B07 B08 B8A B11 B12"
    assert " ".join(MultiSenGE().sensors[0].bands) == bands


def rewrite(root, path, change):
    raster = geotiff.read(root / path)
    geotiff.write(root / path, replace(raster, descriptions=(), **change(raster)))


@pytest.mark.parametrize(
    ("path", "change", "reason"),
    [
        ("s1/31UGQ_20200721_S1_2570_5140.tif", None, "no such file"),
        ("ground_reference/31UGQ_GR_2570_5140.tif", None, "no such file"),
        ("ground_reference/31UGQ_GR_2570_5140.tif", lambda r: {"data": r.data * 3}, "outside the classes 1..14: 18, 27"),
        ("ground_reference/31UGQ_GR_2570_5140.tif", lambda r: {"data": r.data - 2}, r"1\.\.14: 0"),
        ("ground_reference/31UGQ_GR_2570_5140.tif", lambda r: {"data": r.data[:, 1:]}, "size is 255x256"),
        (
            "s2/31UGQ_20200720_S2_2570_5140.tif",
            lambda r: {"crs": "EPSG:32632"},
            "CRS EPSG:32632, but its tile lies in EPSG:32631",
        ),
        ("s1/31UGQ_20200721_S1_2570_5140.tif", lambda r: {"crs": "EPSG:32632"}, "CRS EPSG:32632, but its tile"),
        (
            "s1/31UGQ_20200721_S1_2570_5140.tif",
            lambda r: {"transform": (10.0, 0.0, CORNER[0] + 10, 0.0, -10.0, CORNER[1])},
            "transform .* differs",
        ),
        ("s1/31UGQ_20200721_S1_2570_5140.tif", lambda r: {"data": np.where(r.data < -20, np.nan, r.data)}, "NaN"),
        ("s1/31UGQ_20200721_S1_2570_5140.tif", lambda r: {"data": r.data.astype("float64")}, "dtype is float64"),
        ("s2/31UGQ_20200720_S2_2570_5140.tif", lambda r: {"data": r.data[:9]}, "9 bands, expected 10"),
        ("s2/31UGQ_20200720_S2_2570_5140.tif", lambda r: {"data": r.data.astype("float32")}, "dtype is float32"),
        ("s2/31UGQ_20200720_S2_2570_5140.tif", lambda r: {"data": r.data * 0}, "nodata"),
    ],
)
def test_a_bad_file_is_named(tmp_path, path, change, reason):
    write_patch(tmp_path)
    if change:
        rewrite(tmp_path, path, change)
    else:
        (tmp_path / path).unlink()
    with pytest.raises(BadPatch, match=rf"{path}: .*{reason}"):
        MultiSenGE().read(tmp_path, KEY)


def test_negative_numbers_are_refused_and_theias_nodata_becomes_ours(tmp_path):
    arrays, path = write_patch(tmp_path, dtype="int16"), "s2/31UGQ_20200720_S2_2570_5140.tif"
    pixels = arrays[path].copy()
    pixels[:, :2] = -10_000
    rewrite(tmp_path, path, lambda r: {"data": pixels, "nodata": -10_000})
    stored = MultiSenGE().read(tmp_path, KEY)["s2"]
    assert (stored[:, :2] == 0).all()
    np.testing.assert_array_equal(stored[:, 2:], arrays[path][:, 2:])
    pixels[3, 5, 6:8] = -1, -7
    rewrite(tmp_path, path, lambda r: {"data": pixels})
    with pytest.raises(BadPatch, match="2 values are negative, the lowest -7"):
        MultiSenGE().read(tmp_path, KEY)


def test_sentinel1_too_far_away_in_time(tmp_path):
    write_patch(tmp_path)
    far = "31UGQ_20200904_2570_5140"
    with pytest.raises(BadPatch, match=r"S2_2570_5140\.tif: the nearest Sentinel-1 image \(2020-09-08\) is 4 days away"):
        MultiSenGE().read(tmp_path, far)
    assert MultiSenGE(max_days=4).read(tmp_path, far)["s1_date"] == "2020-09-08"
    assert MultiSenGE(max_days=0).read(tmp_path, "31UGQ_20200805_2570_5140")["s1_date"] == "2020-08-05"


def test_place_is_checked_where_splits_are_made_by_it(tmp_path):
    write_patch(tmp_path, corner=(CORNER[0] + 2570, CORNER[1]))
    assert MultiSenGE().read(tmp_path, KEY)["key"] == KEY
    for options in ({"split": "spatial"}, {"test_area": (6.1, 49.0, 6.2, 49.1)}):
        with pytest.raises(BadPatch, match=r"lies at 728230 5448620, by its name at \(725660, 5448620\)"):
            MultiSenGE(**options).read(tmp_path, KEY)


def all_keys(dataset, root):
    return {split: dataset.index(root, split) for split in dataset.splits}


@pytest.fixture
def labels_only(tmp_path):
    """Forty patches of two tiles, label files alone: an index opens no raster."""
    (tmp_path / "labels").mkdir()
    for tile, zone in (("31UGQ", 31), ("32ULU", 32)):
        for i in range(20):
            name = f"{tile}_{257 * i}_0"
            content = {
                f"corresponding_{s.lower()}": ";".join(f"{tile}_{d}_{s}_{257 * i}_0.tif" for d in DAYS["s2"])
                for s in ("S1", "S2")
            }
            content |= {"labels": "1", "projection": geotiff.wkt(f"EPSG:326{zone}")}
            (tmp_path / "labels" / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_index_has_every_date_of_a_patch_in_one_split(labels_only):
    keys = all_keys(MultiSenGE(), labels_only)
    assert {split: len(found) for split, found in keys.items()} == {"train": 29 * 3, "val": 7 * 3, "test": 4 * 3}
    owners = [{MultiSenGE().patch(key) for key in found} for found in keys.values()]
    assert len(set.union(*owners)) == sum(map(len, owners)) == 40
    assert all(found == sorted(found) for found in keys.values())


@pytest.mark.parametrize(("dates", "number"), [("first", 40), ("monthly", 120), ("2020-08-01..2020-09-30", 80), ("all", 120)])
def test_choice_of_dates_leaves_the_splits_alone(labels_only, dates, number):
    chosen, every = all_keys(MultiSenGE(dates=dates), labels_only), all_keys(MultiSenGE(), labels_only)
    assert sum(map(len, chosen.values())) == number
    assert all(set(chosen[split]) <= set(every[split]) for split in every)


def test_tiles(labels_only):
    keys = all_keys(MultiSenGE(tiles=("32ULU",)), labels_only)
    assert sum(map(len, keys.values())) == 60
    assert all(key.startswith("32ULU") for found in keys.values() for key in found)
    with pytest.raises(UserError, match=r"unknown tile '32UUL'. Did you mean '32ULU'"):
        MultiSenGE(tiles=("32UUL",)).index(labels_only, "train")


def test_neighbours_in_no_split_are_counted(labels_only):
    # Two rows of twenty patches: the tenth of 31UGQ is test, so its two neighbours are left out.
    corner = 699960 + 2570 * 10
    area = (corner + 100.0, 5498000.0, corner + 200.0, 5499000.0)
    dataset = MultiSenGE(tiles=("31UGQ",), split="spatial", test_area=area)
    keys = all_keys(dataset, labels_only)
    assert {dataset.patch(key) for key in keys["test"]} == {"31UGQ_2570_0"}
    used = {dataset.patch(key) for found in keys.values() for key in found}
    assert not {f"31UGQ_{257 * 9}_0", f"31UGQ_{257 * 11}_0"} & used
    assert dataset.left_out(labels_only) == {"patches beside one of another split": 20 - len(used)}


def test_a_patch_with_a_bad_label_file_is_in_the_index_and_fails_when_read(labels_only):
    path = labels_only / "labels" / "31UGQ_0_0.json"
    path.write_text("{}")
    keys = [key for found in all_keys(MultiSenGE(), labels_only).values() for key in found]
    assert len(keys) == 39 * 3 + 1
    assert "31UGQ_0_0" in keys
    with pytest.raises(BadPatch, match=r"31UGQ_0_0\.json: has no entry 'corresponding_s2'"):
        MultiSenGE().read(labels_only, "31UGQ_0_0")


def test_val_fraction_draws_patches(labels_only):
    splits = plan(MultiSenGE(), labels_only, val_fraction=0.5)
    patches = {split: {MultiSenGE().patch(key) for key in keys} for split, keys in splits.items()}
    assert not patches["train"] & patches["val"]
    assert len(patches["val"]) == 18
    assert len(splits["val"]) == 54


def test_split_files_cannot_part_the_dates_of_a_patch(labels_only, tmp_path):
    (tmp_path / "test.txt").write_text("31UGQ_20200720_0_0\n")
    with pytest.raises(UserError, match="records of patch 31UGQ_0_0 are in test and in train"):
        plan(MultiSenGE(), labels_only, split_files={"test": str(tmp_path / "test.txt"), "train": "rest"})
    with pytest.raises(UserError, match="cannot stand beside --split_file"):
        plan(MultiSenGE(split="spatial"), labels_only, val_fraction=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "singel"}, "unknown form 'singel'"),
        ({"split": "spacial"}, "unknown split 'spacial'. Did you mean 'spatial'"),
        ({"dates": "weekly"}, "dates 'weekly': give all"),
        ({"test_area": (6.1, 49.0)}, "give minx,miny,maxx,maxy"),
        ({"test_area": (6.2, 49.0, 6.1, 49.1)}, "give minx,miny,maxx,maxy"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        MultiSenGE(**options)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no multisenge patch found"):
        MultiSenGE().index(tmp_path, "train")


SERIES = MultiSenGE(form="series", max_days=4)


def test_a_series_is_the_single_records_of_a_patch_in_order(tmp_path):
    write_patch(tmp_path)
    series, single = SERIES.read(tmp_path, NAME), MultiSenGE(max_days=4)
    assert (series["s2"].shape, series["s1"].shape) == ((3, 10, 256, 256), (3, 2, 256, 256))
    assert series["date"] == "2020-07-20,2020-08-05,2020-09-04"
    assert series["s1_date"] == "2020-07-21,2020-08-05,2020-09-08"
    for step, day in enumerate(DAYS["s2"]):
        one = single.read(tmp_path, f"31UGQ_{day}_2570_5140")
        assert (one["date"], one["s1_date"]) == (series["date"].split(",")[step], series["s1_date"].split(",")[step])
        for field in ("s2", "s1"):
            np.testing.assert_array_equal(series[field][step], one[field])
    summer = replace(SERIES, dates="2020-08-01..2020-08-31").read(tmp_path, NAME)
    assert (summer["date"], summer["s2"].shape[0]) == ("2020-08-05", 1)


def test_series_have_the_splits_of_single_records(labels_only):
    series, single = all_keys(SERIES, labels_only), all_keys(MultiSenGE(), labels_only)
    for split, keys in single.items():
        assert series[split] == sorted({MultiSenGE().patch(key) for key in keys})
    assert all_keys(replace(SERIES, dates="2021-01-01..2021-12-31"), labels_only) == {"train": [], "val": [], "test": []}


def test_a_key_of_the_other_form_is_refused(tmp_path):
    write_patch(tmp_path)
    for dataset, key in ((SERIES, KEY), (MultiSenGE(), NAME)):
        with pytest.raises(BadPatch, match="this patch has 2020-07-20, 2020-08-05, 2020-09-04"):
            dataset.read(tmp_path, key)


def test_series_in_records(tmp_path):
    names = ["31UGQ_0_0", "31UGQ_257_0"]
    for name in names:
        write_patch(tmp_path, name, seed=len(name))
    path = tmp_path / "labels" / "31UGQ_257_0.json"
    content = json.loads(path.read_text())
    content["corresponding_s2"] = content["corresponding_s2"].split(";", 1)[1]  # without the last date
    path.write_text(json.dumps(content))
    records = write(SERIES, tmp_path, tmp_path / "out", {"train": names})
    assert records.index("train")["steps_s2"].tolist() == records.index("train")["steps_s1"].tolist() == [3, 2]
    found = {sample["key"]: sample for sample in records.samples("train")}
    for name in names:
        expected = SERIES.read(tmp_path, name)
        for field in ("s2", "s1", "ground_reference"):
            np.testing.assert_array_equal(found[name][field], expected[field])
    pixels = np.concatenate([found[name]["s2"][:, 3].ravel() for name in names])
    assert records.statistics["s2"]["B05"]["mean"] == pytest.approx(pixels.mean())
    assert records.statistics["s2"]["B05"]["std"] == pytest.approx(pixels.std())
    assert find_problems(records) == []
    decoded = records.schema.decode(SERIES.schema.encode(expected), ["s1", "s2"])
    np.testing.assert_array_equal(decoded["s1"], expected["s1"])
    assert decoded["s2"].shape == (2, 10, 256, 256)
    tfds = pytest.importorskip("tensorflow_datasets")
    read = tfds.builder_from_directory(str(records.directory)).as_dataset(split="train")
    for example in read.as_numpy_iterator():
        np.testing.assert_array_equal(example["s2"], found[example["key"].decode()]["s2"])
    assert sorted(np.shape(example["s1"]) for example in read.as_numpy_iterator()) == [(2, 2, 256, 256), (3, 2, 256, 256)]
