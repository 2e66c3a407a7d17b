import io
import re
import shutil
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tfrs.datasets.eurosat import EuroSat, EuroSatRgb
from tfrs.errors import BadPatch, UserError

# Patches per class as published.
PATCHES = {
    "AnnualCrop": 3000,
    "Forest": 3000,
    "HerbaceousVegetation": 3000,
    "Highway": 2500,
    "Industrial": 2500,
    "Pasture": 2000,
    "PermanentCrop": 2500,
    "Residential": 3000,
    "River": 2500,
    "SeaLake": 3000,
}
SPLITS = ("train", "val", "test")


def all_keys(dataset, root):
    return {split: dataset.index(root, split) for split in SPLITS}


def counts(keys):
    return Counter(key.split("_")[0] for key in keys)


def zipped(root, archive, top=""):
    """All files below `root` in a zip, stored."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*.*")):
            file.write(path, top + str(path.relative_to(root)))
    return archive


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """A zip of empty files under the names of all 27,000 patches."""
    path = tmp_path_factory.mktemp("names") / "EuroSAT_MS.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, number in PATCHES.items():
            for i in range(1, number + 1):
                archive.writestr(f"EuroSAT_MS/{name}/{name}_{i}.tif", "")
    return path


def assert_stratified(splits):
    for name, number in PATCHES.items():
        assert [counts(splits[split])[name] for split in SPLITS] == [number * 8 // 10, number // 10, number // 10]
    everything = [key for keys in splits.values() for key in keys]
    assert sorted(everything) == sorted(f"{name}_{i}" for name, number in PATCHES.items() for i in range(1, number + 1))


def test_split_is_stratified_and_complete(names):
    splits = all_keys(EuroSat(), names)
    assert_stratified(splits)
    assert all(keys == sorted(keys) for keys in splits.values())


def test_the_published_zip_has_all_patches(shared, names):
    splits = all_keys(EuroSatRgb(), shared / "data" / "EuroSAT_RGB.zip")
    assert_stratified(splits)
    assert splits == all_keys(EuroSat(), names)  # both editions have the same split


@pytest.mark.parametrize(
    ("patches", "sizes"),
    [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (5, (3, 1, 1)), (14, (12, 1, 1)), (16, (12, 2, 2))],
)
def test_split_of_a_few_patches(tmp_path, patches, sizes):
    (tmp_path / "River").mkdir()
    for number in range(patches):
        (tmp_path / "River" / f"River_{number}.tif").touch()
    assert tuple(len(keys) for keys in all_keys(EuroSat(), tmp_path).values()) == sizes


def test_split_is_drawn_by_the_seed(names):
    first, again, other = (all_keys(EuroSat(seed=seed), names) for seed in (0, 0, 1))
    assert first == again
    overlap = len(set(first["test"]) & set(other["test"]))
    assert 150 < overlap < 400  # of 2700, chance gives 270
    assert_stratified(other)


def test_numbers_in_val_and_test_are_spread(names):
    """Patches with near numbers come from near places: none of the splits may be a run of them."""
    for split in ("val", "test"):
        numbers = np.array([int(key.split("_")[1]) for key in EuroSat().index(names, split) if key.startswith("Forest")])
        assert abs(numbers.mean() - 1500) < 200
        assert numbers.std() == pytest.approx(3000 / np.sqrt(12), rel=0.15)


def test_published_jpegs(shared):
    archive, dataset = shared / "data" / "EuroSAT_RGB.zip", EuroSatRgb()
    for key in ("AnnualCrop_1", "River_12", "SeaLake_3000"):
        sample = dataset.read(archive, key)
        assert sample.keys() == {"key", "label", "rgb"}
        assert sample["label"] == sorted(PATCHES).index(key.split("_")[0])
        with zipfile.ZipFile(archive) as members:
            data = members.read(f"2750/{key.split('_')[0]}/{key}.jpg")
        # Decoders differ a little in chroma, never in the order of the channels.
        expected = np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)
        np.testing.assert_allclose(sample["rgb"].mean(axis=(1, 2)), expected.mean(axis=(1, 2)), atol=0.2)
        assert (sample["rgb"].shape, sample["rgb"].dtype) == ((3, 64, 64), np.uint8)


def test_published_tifs(shared):
    root, dataset = shared / "data" / "eurosat_ms", EuroSat()
    keys = [key for split in SPLITS for key in dataset.index(root, split)]
    assert sorted(keys) == ["AnnualCrop_1", "Pasture_300"]
    for key in keys:
        sample = dataset.read(root, key)
        bands = dict(zip(dataset.sensors[0].bands, sample["s2"].reshape(13, -1).astype(float), strict=True))
        # What physics says of the order: cirrus is nearly black, and B8A is next to B08 and B07, not to B12.
        assert 5 < bands["B10"].mean() < 20
        assert min(bands, key=lambda name: bands[name].mean()) == "B10"
        assert np.corrcoef(bands["B8A"], bands["B07"])[0, 1] > 0.95
        assert sample["crs"] in ("EPSG:32635", "EPSG:32632")
        assert 9.97 < sample["transform"][0] < 10.01


def test_read_gives_the_pixels_of_the_file(eurosat_tree):
    root, sources = eurosat_tree
    for key, raster in sources.items():
        sample = EuroSat().read(root, key)
        np.testing.assert_array_equal(sample["s2"], raster.data, strict=True)
        assert sample["transform"].tolist() == list(raster.transform)
        assert (sample["key"], sample["crs"]) == (key, raster.crs)
        assert sample["label"] == sorted(PATCHES).index(key.split("_")[0])


@pytest.mark.parametrize("top", ["", "EuroSAT_MS/", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif/"])
def test_folder_and_zip_are_alike(eurosat_tree, tmp_path, top):
    dataset, root = EuroSat(), eurosat_tree[0] / "EuroSAT_MS"
    archive = zipped(root, tmp_path / "EuroSAT MS.zip", top)
    assert all_keys(dataset, archive) == all_keys(dataset, root)
    for key in dataset.index(root, "train")[::7]:
        first, second = dataset.read(root, key), dataset.read(archive, key)
        assert first.keys() == second.keys()
        for name, value in first.items():
            np.testing.assert_array_equal(second[name], value)


def test_folder_and_zip_of_jpegs_are_alike(eurosat_rgb_tree, tmp_path):
    dataset, archive = EuroSatRgb(), zipped(eurosat_rgb_tree, tmp_path / "EuroSAT.zip")
    assert all_keys(dataset, archive) == all_keys(dataset, eurosat_rgb_tree)
    for key in dataset.index(eurosat_rgb_tree, "test"):
        np.testing.assert_array_equal(dataset.read(archive, key)["rgb"], dataset.read(eurosat_rgb_tree, key)["rgb"])


def test_other_files_are_no_patches(tmp_path):
    names = ["River/River_1.tif", "River/River_2.jpg", "River/Forest_3.tif", "River/River_x.tif", "River/River_4.tif.tmp"]
    for name in [*names, "Lake/Lake_1.tif", "River_5.tif", "a/b/Forest.csv", "Pasture/._Pasture_3.tif"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert all_keys(EuroSat(), tmp_path) == {"train": ["River_1"], "val": [], "test": []}


def test_two_copies_are_refused(eurosat_tree, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(eurosat_tree[0] / "EuroSAT_MS" / "River", tmp_path / "data" / name / "River")
    with pytest.raises(UserError, match=r"data: EuroSAT patches in several places \(one/, two/\); give one with --input"):
        EuroSat().index(tmp_path / "data", "train")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("a/Forest/Forest_1.tif", "b/Forest/Forest_1.tif"):
            archive.writestr(name, "")
    with pytest.raises(UserError, match=r"two\.zip: EuroSAT patches in several places \(a/, b/\)"):
        EuroSat().index(tmp_path / "two.zip", "train")


def test_places_without_the_data_set(tmp_path):
    def message(dataset, root):
        with pytest.raises(UserError) as error:
            dataset.index(root, "train")
        return str(error.value).removeprefix(f"{tmp_path}/")

    expected = "; expected <Class>/<Class>_<n>.tif, e.g. EuroSAT_MS/River/River_12.tif, in a folder or a zip"
    assert message(EuroSat(), tmp_path / "no") == "no: no such file or directory; give the data set's place with --input"
    (tmp_path / "empty").mkdir()
    assert message(EuroSat(), tmp_path / "empty") == "empty: no eurosat patch found (it is empty)" + expected
    (tmp_path / "sen12ms" / "ROIs1158_spring" / "s2_1").mkdir(parents=True)
    assert message(EuroSat(), tmp_path / "sen12ms") == "sen12ms: no eurosat patch found (it has ROIs1158_spring)" + expected
    (tmp_path / "text").write_text("no zip")
    assert (
        message(EuroSat(), tmp_path / "text")
        == "text: no eurosat patch found (a file in which there is none; unpack it if it is an archive)" + expected
    )
    jpegs = tmp_path / "2750" / "River"
    jpegs.mkdir(parents=True)
    (jpegs / "River_1.jpg").touch()
    assert message(EuroSat(), tmp_path / "2750") == "2750: no eurosat patch found (it has River)" + expected
    assert EuroSatRgb().index(tmp_path / "2750", "train") == ["River_1"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("Lake_1", "Lake_1: not a patch name such as River_12"),
        ("River", "River: not a patch name"),
        ("River_1.tif", "not a patch name"),
        ("River_99", r"/EuroSAT_MS/River/River_99\.tif: no such file"),
    ],
)
def test_patches_that_are_not_there(eurosat_tree, key, message):
    with pytest.raises(BadPatch, match=message):
        EuroSat().read(eurosat_tree[0], key)


def test_a_damaged_member_of_a_zip_is_named(eurosat_tree, tmp_path):
    content = (eurosat_tree[0] / "EuroSAT_MS" / "River" / "River_1.tif").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("River/River_1.tif", content[:50_000])
        archive.writestr("River/River_2.tif", content)
    EuroSat().read(tmp_path / "a.zip", "River_2")
    for key, reason in (("River_1", "cannot be read"), ("River_3", "no such file")):
        with pytest.raises(BadPatch, match=rf"{re.escape(str(tmp_path))}/a\.zip/River/{key}\.tif: {reason}"):
            EuroSat().read(tmp_path / "a.zip", key)
