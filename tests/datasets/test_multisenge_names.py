import json
import zipfile

import numpy as np
import pytest

from tfrs import geotiff
from tfrs.datasets.multisenge_names import check_dates, nearest, parse_key, read_patch, select, single_key
from tfrs.errors import BadPatch, UserError

NAME = "31UGQ_257_514"


def days(*dates):
    return np.array(dates, "datetime64[D]")


def content(**entries):
    images = {s: [f"31UGQ_{d}_{s}_257_514.tif" for d in ("20200805", "20200101", "20201231")] for s in ("S1", "S2")}
    return {
        "corresponding_s1": ";".join(images["S1"]),
        "corresponding_s2": ";".join(images["S2"]),
        "projection": geotiff.wkt("EPSG:32631"),
        "labels": "9;2;14",
    } | entries


@pytest.fixture
def label_file(tmp_path):
    def write(text):
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{NAME}.json").write_text(text)
        return tmp_path

    return write


def test_all_real_files_parse_to_the_published_counts(shared, tmp_path):
    with zipfile.ZipFile(shared / "data/multisenge/labels.zip") as archive:
        archive.extractall(tmp_path)
    patches = [read_patch(tmp_path, path.stem) for path in (tmp_path / "labels").iterdir()]
    assert len(patches) == 8157
    assert len({patch.tile for patch in patches}) == 14
    counts = {sensor: [len(getattr(patch, sensor)) for patch in patches] for sensor in ("s2", "s1")}
    assert (sum(counts["s2"]), min(counts["s2"]), max(counts["s2"])) == (72033, 2, 23)
    assert (sum(counts["s1"]), min(counts["s1"]), max(counts["s1"])) == (1012227, 89, 181)
    with_class = np.bincount(np.concatenate([patch.labels for patch in patches]))
    # Counted from the texts by hand.
    assert with_class.tolist() == [2098, 6264, 2607, 1779, 5445, 7305, 572, 911, 7893, 164, 7889, 77, 2536, 2258]
    apart = np.concatenate([np.abs(nearest(patch.s1, patch.s2) - patch.s2).astype(int) for patch in patches])
    assert np.bincount(apart).tolist() == [21092, 35372, 15569]
    months = [set(patch.s2.astype("datetime64[M]").astype(str)) for patch in patches]
    assert sum({"2020-07", "2020-08", "2020-09", "2020-11"} <= found for found in months) == 6560


def test_a_patch_is_what_its_file_says(label_file):
    patch = read_patch(label_file(json.dumps(content())), NAME)
    assert (patch.tile, patch.x, patch.y, patch.crs) == ("31UGQ", 257, 514, "EPSG:32631")
    assert patch.s2.tolist() == days("2020-01-01", "2020-08-05", "2020-12-31").tolist()
    assert patch.labels.tolist() == [1, 8, 13]
    assert patch.path("root", "s1", patch.s1[1]).as_posix() == "root/s1/31UGQ_20200805_S1_257_514.tif"
    assert patch.ground_reference("root").as_posix() == "root/ground_reference/31UGQ_GR_257_514.tif"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": None}, "labels is empty or no text"),
        ({"labels": ""}, "labels is empty"),
        ({"labels": "2;15"}, "labels has '15'; the classes are 1..14"),
        ({"labels": "2,9"}, "labels has '2,9'"),
        ({"corresponding_s1": ""}, "corresponding_s1 is empty"),
        ({"corresponding_s2": "31UGQ_20201332_S2_257_514.tif"}, "'20201332' is no date"),
        ({"corresponding_s2": "31UGQ_2020085_S2_257_514.tif"}, "'2020085' is no date"),
        ({"corresponding_s2": "31UGQ_20200805_S2_257_771.tif"}, "not an image of this patch"),
        ({"corresponding_s2": "31UGQ_20200805_S1_257_514.tif"}, "not an image of this patch"),
        ({"corresponding_s2": ";".join(["31UGQ_20200805_S2_257_514.tif"] * 2)}, "lists 2020-08-05 twice"),
        ({"projection": geotiff.wkt("EPSG:32632")}, "projection is EPSG:32632, but tile 31UGQ lies in EPSG:32631"),
        ({"projection": "somewhere"}, "projection is somewhere"),
    ],
)
def test_a_bad_entry_is_named(label_file, change, reason):
    with pytest.raises(BadPatch, match=rf"{NAME}\.json: .*{reason}"):
        read_patch(label_file(json.dumps(content(**change))), NAME)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps({k: v for k, v in content().items() if k != "labels"}), "has no entry 'labels'"),
        ('{"labels": "2', "is no JSON object"),
        ("[1]", "is no JSON object"),
        ("\x00", "is no JSON object"),
    ],
)
def test_a_bad_file_is_named(label_file, text, reason):
    with pytest.raises(BadPatch, match=rf"{NAME}\.json: {reason}"):
        read_patch(label_file(text), NAME)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadPatch, match=rf"{NAME}\.json: no such file"):
        read_patch(tmp_path, NAME)


def test_keys():
    assert parse_key("31UGQ_20200805_257_514") == (NAME, np.datetime64("2020-08-05"))
    assert parse_key(NAME) == (NAME, None)
    assert single_key(NAME, np.datetime64("2020-08-05")) == "31UGQ_20200805_257_514"
    for key in ("31UGQ_20200230_257_514", "31UGQ", "31UGQ_257", "River_12", "31UGQ_20200805_257_514.tif"):
        with pytest.raises(BadPatch, match=key):
            parse_key(key)


YEAR = days("2020-01-31", "2020-02-01", "2020-02-15", "2020-02-29", "2020-07-01", "2020-09-30", "2020-10-01")


@pytest.mark.parametrize(
    ("spec", "positions"),
    [
        ("all", range(7)),
        ("first", [0]),
        ("monthly", [0, 1, 4, 5, 6]),
        ("2020-02-15..2020-09-30", [2, 3, 4, 5]),
        ("2020-07-01..2020-07-01", [4]),
        ("2021-01-01..2021-12-31", []),
    ],
)
def test_choice_of_dates(spec, positions):
    check_dates(spec)
    assert select(YEAR, spec).tolist() == YEAR[list(positions)].tolist()


@pytest.mark.parametrize(
    "spec", ["", "some", "2020-07", "2020-07-01", "2020-07-01..", "2020-02-30..2020-03-01", "20200701..20200801"]
)
def test_another_choice_is_refused(spec):
    with pytest.raises(UserError, match=r"give all, monthly, first, or a range"):
        check_dates(spec)


def test_a_range_backwards_is_refused():
    with pytest.raises(UserError, match="ends before it begins"):
        check_dates("2020-08-01..2020-07-31")


def test_nearest_by_hand():
    listed = days("2020-07-01", "2020-07-05", "2020-07-06", "2020-12-31")
    wanted = days("2020-06-01", "2020-07-01", "2020-07-03", "2020-07-04", "2020-07-06", "2020-11-01", "2021-01-01")
    # 3 July is two days from both 1 and 5 July: the earlier.
    expected = days("2020-07-01", "2020-07-01", "2020-07-01", "2020-07-05", "2020-07-06", "2020-12-31", "2020-12-31")
    assert nearest(listed, wanted).tolist() == expected.tolist()
    assert nearest(listed, wanted[2]) == np.datetime64("2020-07-01")
    assert nearest(listed[:1], wanted).tolist() == [listed[0].tolist()] * 7
