import filecmp
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tfrs import synthetic
from tfrs.datasets.eurosat import EuroSat, EuroSatRgb
from tfrs.datasets.sen12ms import Sen12MS
from tfrs.labels import EUROSAT

# Simplified class of each IGBP number 0..17 as in Table 2 of Schmitt & Wu 2021; 0 is not in the scheme.
SIMPLIFIED = np.array([0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10])


@pytest.fixture(scope="module")
def sen12ms(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "not" / "there"
    synthetic.sen12ms(root, 80, 0)
    return root


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "eurosat"
    synthetic.eurosat(root, 60, 0)
    return root


def triplets(root, keys):
    """Sentinel-2 (n, 256, 256, 13), Sentinel-1 (n, 2, 256, 256) and land cover (n, 4, 256, 256) read by tifffile alone."""
    names = [re.fullmatch(r"(.+)_s2_(\d+)_p(\d+)", key).groups() for key in keys]
    folders = [root / season / f"{{0}}_{scene}" / f"{season}_{{0}}_{scene}_p{patch}.tif" for season, scene, patch in names]
    return [np.stack([band_first(str(path).format(part)) for path in folders]) for part in ("s2", "s1", "lc")]


def band_first(path):
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        assert tags["Compression"].value == tifffile.COMPRESSION.NONE
        assert "GDAL_METADATA" not in tags  # where band descriptions would be
        return np.moveaxis(file.asarray(), file.series[0].axes.index("S"), 0)


def keys_of(root):
    return [key for split in ("train", "val", "test") for key in Sen12MS().index(root, split)]


@pytest.fixture(scope="module")
def images(sen12ms):
    return triplets(sen12ms, keys_of(sen12ms))


def test_sen12ms_files_are_as_published(images):
    s2, s1, lc = images
    assert (s2.dtype, s2.shape[1:]) == (np.uint16, (13, 256, 256))
    assert (s1.dtype, s1.shape[1:]) == (np.float32, (2, 256, 256))
    assert (lc.dtype, lc.shape[1:]) == (np.uint16, (4, 256, 256))
    assert s2.min() > 0
    assert np.isfinite(s1).all()


def test_sen12ms_is_readable_and_complete(sen12ms):
    keys = keys_of(sen12ms)
    assert len(set(keys)) == len(keys) == 80
    assert sum(path.is_file() for path in sen12ms.rglob("*")) == 3 * 80
    samples = [Sen12MS().read(sen12ms, key) for key in keys]
    assert all(re.fullmatch(r"EPSG:32[67]\d\d", sample["crs"]) for sample in samples)
    assert all(sample["transform"][0] == 10 == -sample["transform"][4] for sample in samples)


def test_patches_of_a_scene_do_not_overlap_and_have_one_grid(sen12ms):
    places = {}
    for key in keys_of(sen12ms):
        sample = Sen12MS().read(sen12ms, key)
        places.setdefault(key.rpartition("_p")[0], []).append((sample["crs"], *sample["transform"][[2, 5]]))
    neighbours = [scene for scene in places.values() if len(scene) > 1]
    assert neighbours
    for scene in neighbours:
        assert len({crs for crs, *_ in scene}) == 1
        corners = np.array([corner for _, *corner in scene])
        steps = (corners - corners[0]) / 2560
        assert (steps == steps.round()).all()
        assert len(np.unique(steps, axis=0)) == len(scene)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 12])
def test_few_patches_reach_every_split(tmp_path, n):
    synthetic.sen12ms(tmp_path, n, 4)
    counts = [len(Sen12MS().index(tmp_path, split)) for split in ("train", "val", "test")]
    assert sum(counts) == n
    assert all(counts) == (n >= 3)


def test_splits_are_60_20_20_of_several_scenes(sen12ms):
    for split, count in (("train", 48), ("val", 16), ("test", 16)):
        keys = Sen12MS().index(sen12ms, split)
        assert len(keys) == count
        assert len({key.rpartition("_p")[0] for key in keys}) >= 8


def test_classes_are_as_imbalanced_as_in_sen12ms(images):
    area = np.bincount(SIMPLIFIED[images[2][:, 0]].ravel(), minlength=11)[1:] / images[2][:, 0].size
    _, _, savanna, grassland, wetlands, croplands, _, snow, barren, water = area
    assert snow == 0
    assert (np.delete(area, 7) > 0.005).all()
    assert min(savanna, grassland, croplands) > 1.5 * max(wetlands, barren, water)


def test_patches_have_one_to_three_main_classes(sen12ms):
    labels = [tuple(Sen12MS().read(sen12ms, key)["labels"].tolist()) for key in keys_of(sen12ms)]
    assert Counter(map(len, labels)).keys() <= {1, 2, 3, 4}
    assert np.mean([len(label) <= 3 for label in labels]) > 0.95
    assert len(set(labels)) > 20


def test_land_cover_has_pixels_of_500_metres_and_codes_of_its_class(images):
    lc = images[2]
    for igbp in lc[:, 0]:
        changes = np.flatnonzero((igbp[:, 1:] != igbp[:, :-1]).any(0))
        assert (np.diff(changes) % 50 == 0).all()
    codes = np.unique(lc[:, :, ::16, ::16].transpose(0, 2, 3, 1).reshape(-1, 4), axis=0)
    assert len(codes) == len(np.unique(codes[:, 0])) > 9
    # Croplands: dense herbaceous, herbaceous croplands, grasslands (MCD12Q1 user guide).
    assert (lc[:, 1:].transpose(0, 2, 3, 1)[lc[:, 0] == 12] == (31, 36, 30)).all()


def test_neighbouring_pixels_agree(images):
    visible = images[0][:, 3].astype(float)
    for step, least in ((1, 0.6), (4, 0.2)):
        pairs = [np.corrcoef(image[:, step:].ravel(), image[:, :-step].ravel())[0, 1] for image in visible]
        assert np.median(pairs) > least


def test_60_m_bands_are_smoother_than_10_m_bands(images):
    def detail(band):
        image = images[0][:, band].astype(float)
        return np.diff(image).std() / image.std()

    assert detail(0) < detail(1)  # B01 and B02
    assert detail(8) < detail(7)  # B8A at 20 m and B08


def test_cirrus_is_nearly_dark(images):
    assert 5 < images[0][:, 10].mean() < 15
    assert images[0][:, 10].max() < 40


def test_backscatter_has_the_range_of_decibels(images):
    _, s1, lc = images
    assert 0.01 < (s1[:, 0][lc[:, 0] == 13] > 0).mean() < 0.3
    assert (s1[:, 1][lc[:, 0] == 17] < -25).mean() > 0.3
    assert -16 < s1[:, 0].mean() < -8
    assert -23 < s1[:, 1].mean() < -14


def test_digital_numbers_have_the_level_of_sen12ms(images):
    # Means of B02 B03 B04 B05 B06 B07 B08 B8A B11 B12 published with the SEN12MS reference code.
    published = [1226, 1137, 1139, 1351, 1933, 2211, 2155, 2409, 2002, 1356]
    simulated = images[0][:, [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]].mean((0, 2, 3))
    assert np.abs(simulated / published - 1).max() < 0.35


def test_more_bands_learn_more(sen12ms, images):
    s2, s1, lc = images
    means = [image.reshape(len(image), -1, 8, 32, 8, 32).mean((3, 5)) for image in (s2, s1)]
    pixels = np.concatenate(means, axis=1).transpose(0, 2, 3, 1)
    classes = SIMPLIFIED[lc[:, 0, 16::32, 16::32]]
    train = len(Sen12MS().index(sen12ms, "train"))
    seen, target, unseen, truth = pixels[:train], classes[:train].ravel(), pixels[train:], classes[train:].ravel()

    def accuracy(bands):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        chosen, held_out = (part[..., bands].reshape(-1, len(bands)) for part in (seen, unseen))
        return model.fit(chosen, target).score(held_out, truth)

    majority = (truth == np.bincount(target).argmax()).mean()
    rgb, ms, s1s2 = (accuracy(bands) for bands in ([3, 2, 1], [*range(1, 9), 11, 12], [*range(1, 9), 11, 12, 13, 14]))
    assert majority + 0.1 < rgb
    assert rgb + 0.05 < ms
    assert ms + 0.05 < s1s2


def test_eurosat_files_are_as_published(eurosat):
    paths = sorted((eurosat / "EuroSAT_MS").glob("*/*.tif"))
    assert Counter(path.parent.name for path in paths) == dict.fromkeys(EUROSAT.classes, 6)
    images = np.stack([band_first(path) for path in paths]).astype(float)
    assert images.shape == (60, 13, 64, 64)
    assert 5 < images[:, 9].mean() < 15  # cirrus; B8A comes last
    assert images[:, 12].mean() > 1.02 * images[:, 7].mean()  # B8A above B08, as over vegetation
    samples = [EuroSat().read(eurosat, path.stem) for path in paths]
    assert all(9.97 <= sample["transform"][0] <= 10.006 for sample in samples)
    assert all(re.fullmatch(r"EPSG:32[67]\d\d", sample["crs"]) for sample in samples)


def test_eurosat_classes_can_be_told_apart(tmp_path):
    synthetic.eurosat(tmp_path, 240, 1)
    paths = sorted(tmp_path.glob("EuroSAT_MS/*/*.tif"))
    images = np.stack([band_first(path) for path in paths]).astype(float)
    features = np.concatenate([images.mean((2, 3)), images.std((2, 3)), images.min((2, 3)), images.max((2, 3))], axis=1)
    names = np.array([path.parent.name for path in paths])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(features[::2], names[::2])
    assert model.score(features[1::2], names[1::2]) > 0.8


def test_eurosat_rgb_shows_the_same_patches(tmp_path, eurosat):
    synthetic.eurosat_rgb(tmp_path, 20, 0)
    paths = sorted(tmp_path.glob("2750/*/*.jpg"))
    assert len(paths) == 20
    for path in paths:
        seen = np.asarray(Image.open(path)).astype(float)
        ms = band_first(eurosat / "EuroSAT_MS" / path.parent.name / f"{path.stem}.tif")
        shown = np.clip(ms[[3, 2, 1]] * (255 / 2750), 0, 255)
        assert np.abs(seen.transpose(2, 0, 1) - shown).mean() < 6
        # Decoders smooth colour between pixels in their own ways.
        assert np.abs(seen.transpose(2, 0, 1) - EuroSatRgb().read(tmp_path, path.stem)["rgb"]).mean() < 3


@pytest.mark.parametrize(("write", "n"), [(synthetic.sen12ms, 7), (synthetic.eurosat, 12), (synthetic.eurosat_rgb, 12)])
def test_a_seed_fixes_every_file_for_any_number(tmp_path, write, n):
    for name, count, seed in (("few", n, 3), ("many", n + 6, 3), ("other", n, 4)):
        write(tmp_path / name, count, seed)
    few = [path.relative_to(tmp_path / "few") for path in Path(tmp_path / "few").rglob("*.*")]
    assert len(few) in (n, 3 * n)
    same = {name: filecmp.cmpfiles(tmp_path / "few", tmp_path / name, few, shallow=False)[0] for name in ("many", "other")}
    assert len(same["many"]) == len(few)
    assert not same["other"]
