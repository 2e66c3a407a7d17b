import io
import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tfrecords_builder.plan import plan
from tfrecords_builder.writer import write
from tfrs import geotiff
from tfrs.datasets import base, sen12ms
from tfrs.datasets.sen12ms import Sen12MS, labels_of, parse_key, paths
from tfrs.errors import BadPatch, UserError
from tfrs.geotiff import Raster


@pytest.fixture(scope="module")
def official(shared):
    """The authors' lists: names without extension by split."""
    with zipfile.ZipFile(shared / "data" / "sen12ms" / "splits.zip") as archive:
        lists = {split: archive.read(f"{split}_list.txt").decode() for split in ("test", "val")}
        pickled = {split: pickle.load(io.BytesIO(archive.read(f"{split}_list.pkl"))) for split in lists}
    assert all("\r\n" in text for text in lists.values())
    names = {split: [line.removesuffix(".tif") for line in text.split()] for split, text in lists.items()}
    assert names == {split: [name.removesuffix(".tif") for name in listed] for split, listed in pickled.items()}
    return names


@pytest.fixture(scope="module")
def empty_files(official):
    """The folders of the data set with an empty file for every listed patch, and some of other scenes and other kinds."""
    # In memory where there is such a place: to make 36,656 files took 50 s on a busy disk.
    root, folders = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)), set()
    others = ["ROIs1158_spring_s2_1_p30", "ROIs2017_winter_s2_8_p100", "ROIs2017_winter_s2_8_p9"]
    for name in [*official["test"], *official["val"], *others]:
        season, scene, _ = name.replace("_s2", "").rsplit("_", 2)
        folder = root / season / f"s2_{scene}"
        if folder not in folders:
            folder.mkdir(parents=True)
            folders.add(folder)
        (folder / f"{name}.tif").touch()
    for stray in ("ROIs1158_spring_s2_1_p30.tif.aux.xml", "ROIs1158_spring_s2_2_p1.tif", "ROIs1158_spring_s2_1_p31.tif.tmp"):
        (root / "ROIs1158_spring" / "s2_1" / stray).touch()
    for stray in ("ROIs1158_spring/s1_1", "ROIs1158_spring/lc_1", "ROIs1158_spring/s2_1_old", "ROIs9999_spring/s2_1"):
        (root / stray).mkdir(parents=True)
        (root / stray / "ROIs1158_spring_s2_1_p77.tif").touch()
    (root / "ROIs1868_summer.tar").touch()
    yield root, others
    shutil.rmtree(root)


@pytest.mark.parametrize(("split", "patches", "scenes"), [("test", 18_106, 26), ("val", 18_550, 25)])
def test_index_gives_the_official_lists(empty_files, official, split, patches, scenes):
    found = Sen12MS().index(empty_files[0], split)
    assert found == sorted(official[split])
    assert len(found) == patches
    assert len({parse_key(key)[:2] for key in found}) == scenes


def test_all_other_patches_are_train(empty_files):
    assert Sen12MS().index(empty_files[0], "train") == empty_files[1]


@pytest.mark.parametrize(
    ("file", "table"), [("SEN12MS_holdOutScenes.txt", sen12ms.TEST_SCENES), ("ValidationScenes.txt", sen12ms.VAL_SCENES)]
)
def test_scenes_are_those_of_the_authors(shared, file, table):
    lines = (shared / "data" / "sen12ms" / file).read_text().split()
    listed = [(line.split("/")[0], int(line.rsplit("_", 1)[1])) for line in lines]
    assert sorted(listed) == sorted((season, scene) for season, scenes in table.items() for scene in scenes)


def test_paths_are_built_from_parts():
    """The season's name contains `s1`, the winter's region `s2`: only the part between may change."""
    assert {part: str(path) for part, path in paths("/data", "ROIs1158_spring_s2_1_p30").items()} == {
        "s2": "/data/ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif",
        "s1": "/data/ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p30.tif",
        "lc": "/data/ROIs1158_spring/lc_1/ROIs1158_spring_lc_1_p30.tif",
    }
    assert (
        str(paths("/data", "ROIs2017_winter_s2_102_p7")["s1"]) == "/data/ROIs2017_winter/s1_102/ROIs2017_winter_s1_102_p7.tif"
    )


@pytest.mark.parametrize(
    "key", ["ROIs1158_spring_s1_1_p30", "ROIs1158_spring_s2_1_p30.tif", "River_12", "", "ROIs1158_s2_1_p3"]
)
def test_other_names_are_refused(key, tmp_path):
    with pytest.raises(BadPatch, match="not the base name of a Sentinel-2 patch such as"):
        Sen12MS().read(tmp_path, key)


def test_read_gives_the_pixels_of_the_files(sen12ms_tree):
    root, sources = sen12ms_tree
    for key, arrays in sources.items():
        sample = Sen12MS().read(root, key)
        assert sample.keys() == Sen12MS.schema.fields.keys()
        for part, pixels in arrays.items():
            np.testing.assert_array_equal(sample[part], pixels, strict=True)
        patch = int(key.rsplit("p", 1)[1])
        assert (sample["key"], sample["crs"]) == (key, "EPSG:32633")
        assert sample["transform"].tolist() == [10, 0, 399960.1 + patch, 0, -10, 5300040.3]
        numbers = Counter(arrays["lc"][0].ravel().tolist())
        np.testing.assert_allclose(sample["fractions"], [numbers[n] / 65536 for n in range(1, 18)], rtol=1e-7)


def igbp(**counts):
    """A map with so many pixels of each number, e.g. `n12=100`."""
    return np.repeat([int(name[1:]) for name in counts], list(counts.values())).astype(np.uint16)[None]


@pytest.mark.parametrize(
    ("cover", "label", "labels"),
    [
        (igbp(n12=100), 6, [6]),
        (igbp(n12=90, n17=10), 6, [6]),  # 10 % is not more than 10 %
        (igbp(n12=89, n17=11), 6, [6, 10]),
        (igbp(n12=899, n17=101), 6, [6, 10]),
        (igbp(n12=900, n17=100), 6, [6]),
        (igbp(n12=45, n14=45, n17=10), 6, [6]),  # classes are summed before the threshold
        (igbp(n1=4, n2=4, n5=4, n10=88), 4, [1, 4]),
        (igbp(n1=20, n4=20, n9=35, n16=25), 1, [1, 3, 9]),  # the mode of the simplified classes, not of the 17
        (igbp(n17=50, n6=50), 2, [2, 10]),  # a tie: lowest number
        (igbp(n13=1, n15=1, n11=1), 5, [5, 7, 8]),
        (igbp(n0=80, n255=10, n8=9, n10=1), 3, [3]),  # fractions of the labelled pixels
        (igbp(n0=99999, n17=1), 10, [10]),
        (igbp(**{f"n{number}": 1 for number in range(1, 18)}), 1, [1, 2, 3, 6]),
    ],
)
def test_labels(cover, label, labels):
    found = labels_of(cover, "lc.tif")
    assert found["label"] == label - 1
    assert found["labels"].tolist() == [number - 1 for number in labels]
    counts = [(cover == number).sum() for number in range(1, 18)]
    np.testing.assert_allclose(found["fractions"], np.array(counts) / sum(counts), rtol=1e-6)
    assert found["fractions"].dtype == np.float32


@pytest.mark.parametrize(
    ("cover", "reason"),
    [
        (igbp(n12=99, n18=1), r"outside the IGBP scheme 1\.\.17: 18$"),
        (igbp(n12=99, n254=1, n1000=1), r"1\.\.17: 254, 1000$"),
        (igbp(n0=50, n255=50), "no pixel of band 1 has an IGBP label"),
    ],
)
def test_covers_without_a_label_are_refused(cover, reason):
    with pytest.raises(BadPatch, match=rf"lc\.tif: .*{reason}"):
        labels_of(cover, "lc.tif")


PLACE = {"crs": "EPSG:32633", "transform": (10.0, 0.0, 5e5, 0.0, -10.0, 5e6)}


def rewrite(part, **changes):
    """A fault: a file of the patch is written again with other pixels (a function of the sound ones), CRS ..."""

    def apply(arrays, files):
        pixels = changes.get("pixels", lambda sound: sound)(arrays[part].copy())
        sound = geotiff.read(files[part])
        raster = {"crs": sound.crs, "transform": sound.transform} | {k: v for k, v in changes.items() if k != "pixels"}
        geotiff.write(files[part], Raster(pixels, **raster))

    return part, apply


def put(value, count=1):
    def change(pixels):
        pixels.reshape(-1)[:count] = value
        return pixels

    return change


def truncate(arrays, files):
    files["s2"].write_bytes(files["s2"].read_bytes()[:1_000_000])


# Fault -> (the file it is in, how it comes about), and the reason that the user reads.
FAULTS = {
    "no partner": (("s1", lambda arrays, files: files["s1"].unlink()), "no such file"),
    "truncated": (("s2", truncate), "cannot be read ("),
    "no raster": (("lc", lambda arrays, files: files["lc"].write_text("moved")), "cannot be read ("),
    "bands": (rewrite("lc", pixels=lambda p: p[:3]), "3 bands, expected 4"),
    "size": (rewrite("s1", pixels=lambda p: p[:, :255, :128]), "size is 255x128, expected 256x256"),
    "type": (rewrite("s2", pixels=lambda p: p.astype(np.int16)), "dtype is int16, expected uint16"),
    "NaN": (rewrite("s1", pixels=put(np.nan, 3)), "3 values are NaN or infinite"),
    "infinite": (rewrite("s1", pixels=put(-np.inf)), "1 values are NaN or infinite"),
    "nodata": (rewrite("s1", pixels=put(-9999, 7), nodata=-9999), "7 values are the file's nodata value -9999"),
    "CRS": (rewrite("s1", crs="EPSG:32634"), "CRS EPSG:32634 differs from EPSG:32633 of "),
    "no CRS": (rewrite("lc", crs=""), "CRS missing differs from EPSG:32633 of "),
    "place": (rewrite("lc", transform=(10.0, 0.0, 5e5, 0.0, -10.0, 5e6)), "transform (10.0, 0.0, 500000.0"),
    "empty": (rewrite("s2", pixels=put(0, None)), "every value is 0 (nodata)"),
    "unlabelled": (rewrite("lc", pixels=put(255, None)), "no pixel of band 1 has an IGBP label"),
    "outside": (rewrite("lc", pixels=put(18)), "band 1 has values outside the IGBP scheme 1..17: 18"),
}


@pytest.fixture(scope="module")
def faulty(triplet, tmp_path_factory):
    """A patch for every fault and two sound ones: root, and per key the reason and the file."""
    root, expected = tmp_path_factory.mktemp("faulty"), {}
    for number, ((part, apply), reason) in enumerate(FAULTS.values(), 1):
        arrays, files = triplet(root, "ROIs1158_spring", 1, number, number)
        apply(arrays, files)
        expected[files["s2"].stem] = (reason, str(files[part].relative_to(root)))
    for number in (50, 51):
        triplet(root, "ROIs1158_spring", 1, number, number)
    return root, expected


def test_bad_patches_go_into_quarantine_and_the_build_goes_on(faulty, tmp_path):
    root, expected = faulty
    dataset = Sen12MS()
    records = write(dataset, root, tmp_path, plan(dataset, root), max_bad_fraction=1)
    assert sorted(sample["key"] for sample in records.samples("train")) == [f"ROIs1158_spring_s2_1_p{n}" for n in (50, 51)]
    lines = [json.loads(line) for line in (records.directory / "quarantine.jsonl").read_text().splitlines()]
    assert records.manifest["quarantined"] == len(lines) == len(FAULTS)
    for line in lines:
        reason, path = expected.pop(line["key"])
        assert line["reason"].startswith(reason)
        assert (line["path"], line["split"]) == (path, "train")
    assert not expected


def test_nodata_in_a_part_of_the_optical_image_is_kept(triplet, tmp_path):
    arrays, files = triplet(tmp_path, "ROIs1158_spring", 1, 1, 0)
    _, apply = rewrite("s2", pixels=put(0, 100_000), nodata=0)
    apply(arrays, files)
    assert (Sen12MS().read(tmp_path, "ROIs1158_spring_s2_1_p1")["s2"] == 0).sum() == 100_000


def test_nothing_but_bad_patches_is_an_error(triplet, tmp_path):
    for number in (1, 2):
        _, files = triplet(tmp_path / "data", "ROIs1158_spring", 1, number, number)
        files["s1"].unlink()
    dataset, splits = Sen12MS(), plan(Sen12MS(), tmp_path / "data")
    with pytest.raises(UserError, match=r"none of 2 patches could be read; the first, ROIs1158_spring/s1_1/.*: no such file"):
        write(dataset, tmp_path / "data", tmp_path / "out", splits)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (None, r"data: no such file or directory; give the data set's place with --input"),
        ([], r"no sen12ms patch found \(it is empty\); expected <season>/s2_<scene>/"),
        (["ROIs1158_spring/s1_1", "README"], r"\(it has README, ROIs1158_spring\); expected .* e\.g\. ROIs1158_spring/s2_1/"),
        (["AnnualCrop", "Forest"], r"\(it has AnnualCrop, Forest\)"),
    ],
)
def test_places_without_the_data_set(tmp_path, there, message):
    root = tmp_path / "data"
    if there is not None:
        root.mkdir()
        for name in there:
            (root / name).mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        Sen12MS().index(root, "train")


def test_a_folder_of_one_season_is_enough(triplet, tmp_path):
    triplet(tmp_path, "ROIs1868_summer", 26, 4, 0)
    assert [Sen12MS().index(tmp_path, split) for split in ("train", "val", "test")] == [[], ["ROIs1868_summer_s2_26_p4"], []]


@pytest.mark.parametrize(
    ("values", "dtype", "reason"),
    [
        (np.full((2, 4, 4), 0.02), "float32", "no value is below 0 dB; is it linear power"),
        (np.full((2, 4, 4), 65535), "uint16", r"every value is 65535 \(saturated\)"),
    ],
)
def test_values_in_another_unit_or_saturated(values, dtype, reason):
    raster = geotiff.Raster(values.astype(dtype))
    with pytest.raises(BadPatch, match=reason):
        base.check("x.tif", raster, dtype, (2, 4, 4))
