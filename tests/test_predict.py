"""Maps of scenes by exported models, through the command and against NumPy."""

import csv
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
import tifffile
from small_scene import BANDS, CLASSES, MEANS, PLACE, bands_folder, export, pixel_probabilities, scene, write

from tfrs import predict
from tfrs.errors import UserError
from tfrs.predict import Tiling, Wanted
from tfrs.scene import Reading

READING = Reading({})


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return predict.load(export(tmp_path_factory.mktemp("dense")))


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return predict.load(export(tmp_path_factory.mktemp("patches"), dense=False))


def run(folder, *arguments, status=0):
    command = [sys.executable, "-m", "experiments.predict", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("row_bytes", [1, predict.ROW_BYTES])
@pytest.mark.parametrize("tiling", [Tiling(), Tiling(16, 8), Tiling(32, 0, batch=3), Tiling(24, 5)])
def test_labels_of_pixels_do_not_depend_on_windows(tmp_path, dense, tiling, row_bytes, monkeypatch):
    monkeypatch.setattr(predict, "ROW_BYTES", row_bytes)  # 1: each window is a block of columns of its own
    data = scene(70, 90)
    path = bands_folder(tmp_path / "scene", data)
    wanted = Wanted(probabilities=True)
    made = predict.map_scene(dense, {"s2": str(path)}, tmp_path / "map.tif", READING, tiling, wanted)
    known, expected = data.any(axis=0), pixel_probabilities(data)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "map.tif"), np.where(known, expected.argmax(0) + 1, 0))
    with rasterio.open(tmp_path / "map_probabilities.tif") as file:
        np.testing.assert_allclose(file.read()[:, known] / 1e4, expected[:, known], atol=6e-5)
    assert made.shares == pytest.approx(np.bincount(expected.argmax(0)[known], minlength=CLASSES) / known.sum())


def test_model_of_one_size_maps_scenes_smaller_and_larger(tmp_path):
    model = predict.load(export(tmp_path / "export", size=32))
    for height, width in ((20, 90), (70, 25)):
        data = scene(height, width)
        path = write(tmp_path / f"{height}.tif", data, names=BANDS)
        predict.map_scene(model, {"s2": str(path)}, tmp_path / "map.tif", READING, Tiling(), Wanted())
        expected = np.where(data.any(axis=0), pixel_probabilities(data).argmax(0) + 1, 0)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "map.tif"), expected)
    with pytest.raises(UserError, match="--window=64: this model takes windows of 32 pixels only"):
        predict.map_scene(model, {"s2": str(path)}, tmp_path / "map.tif", READING, Tiling(64), Wanted())


def test_patches_make_a_coarse_map(tmp_path, patches):
    data = np.random.default_rng(2).integers(200, 5000, (3, 40, 70)).astype(np.uint16)
    path = write(tmp_path / "scene.tif", data, names=BANDS)
    made = predict.map_scene(patches, {"s2": str(path)}, tmp_path / "map.tif", READING, Tiling(batch=3), Wanted())
    padded = np.pad(data, ((0, 0), (0, 8), (0, 10)), mode="symmetric").astype(np.int64)
    expected = padded.reshape(3, 3, 16, 5, 16).sum(axis=(2, 4)).argmax(0) + 1
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert tuple(file.transform)[:6] == (160.0, 0, PLACE[2], 0, -160.0, PLACE[5])
    assert (made.grid.height, made.grid.width) == (3, 5)
    with open(tmp_path / "map_areas.csv", newline="") as file:
        assert sum(float(row["hectares"]) for row in csv.DictReader(file)) == pytest.approx(40 * 70 / 100)
    with pytest.raises(UserError, match="--stride=17: patches are 16 pixels"):
        predict.map_scene(patches, {"s2": str(path)}, tmp_path / "map.tif", READING, Tiling(stride=17), Wanted())


def test_occluded_bands(tmp_path, dense):
    """Each band set to the card's mean, by hand: a map and the means over the pixels of each class."""
    data = scene(30, 40)
    path = write(tmp_path / "scene.tif", data, names=BANDS)
    wanted = Wanted(occlude="band")
    predict.map_scene(dense, {"s2": str(path)}, tmp_path / "map.tif", READING, Tiling(16, 8), wanted)
    full, known = pixel_probabilities(data), data.any(axis=0)
    best = full.argmax(0)
    expected = []
    for i, band in enumerate(BANDS):
        hidden = data.astype(np.float64)
        hidden[i] = MEANS[band]
        without = pixel_probabilities(hidden)
        expected.append(np.take_along_axis(full - without, best[None], 0)[0])
    with rasterio.open(tmp_path / "map_occlusion.tif") as file:
        assert file.descriptions == tuple(f"s2:{band}" for band in BANDS)
        np.testing.assert_allclose(file.read()[:, known] / 1e4, np.array(expected)[:, known], atol=1e-4)
    with open(tmp_path / "map_occlusion.csv", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            for band, values in zip(BANDS, expected, strict=True):
                assert float(row[f"s2:{band}"]) == pytest.approx(values[known & (best == number)].mean(), abs=1e-4)
    with pytest.raises(UserError, match="unknown part to --occlude 'bands'. Did you mean 'band'"):  # noqa: RUF043
        predict.map_scene(dense, {"s2": str(path)}, tmp_path / "map.tif", READING, Tiling(), Wanted(occlude="bands"))


def test_other_output_of_a_model_with_several(tmp_path):
    """Its classes are 4 to 6 of the legend, their probabilities in the opposite order."""
    made, data = export(tmp_path / "export"), scene(30, 40)
    path = write(tmp_path / "scene.tif", data, names=BANDS)
    predict.map_scene(predict.load(made, "upside_down"), {"s2": str(path)}, tmp_path / "map.tif", READING, Tiling(), Wanted())
    expected = np.where(data.any(axis=0), 6 - pixel_probabilities(data).argmax(0), 0)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "map.tif"), expected)
    with pytest.raises(UserError, match=r"unknown output 'upside'\. Did you mean 'upside_down'"):
        predict.load(made, "upside")


def test_windows_of_patches_and_strides_of_pixels_are_refused(tmp_path, dense, patches):
    path = str(write(tmp_path / "scene.tif", scene(30, 40), names=BANDS))
    for model, tiling, message in [
        (dense, Tiling(stride=8), "--stride=8: this model labels each pixel"),
        (patches, Tiling(32), "--window, --overlap: this model classifies patches of 16 pixels; see --stride"),
        (patches, Tiling(overlap=0), "--window, --overlap: this model classifies"),
    ]:
        with pytest.raises(UserError, match=message):
            predict.map_scene(model, {"s2": path}, tmp_path / "map.tif", READING, tiling, Wanted())


def test_overlap_beyond_half_is_refused(tmp_path, dense):
    path = write(tmp_path / "scene.tif", scene(30, 40), names=BANDS)
    with pytest.raises(UserError, match="--overlap=9: windows of 16 pixels overlap by 8 at most"):
        predict.map_scene(dense, {"s2": str(path)}, tmp_path / "map.tif", READING, Tiling(16, 9), Wanted())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export and two scenes, for commands."""
    folder = tmp_path_factory.mktemp("commands")
    export(folder / "export")
    for name, seed in (("first", 0), ("second", 1)):
        write(folder / f"{name}.tif", scene(40, 60, seed), names=BANDS)
    (folder / "broken.tif").write_text("no raster")
    (folder / "list.txt").write_text("# scenes\ns2=first.tif\ns2=broken.tif\n\ns2=second.tif,mask=first.tif\n")
    (folder / "maps").mkdir()
    return folder


def test_several_scenes_one_of_which_fails(folder):
    done = run(folder, "--export=export", "--scene_list=list.txt", "--output=maps", status=1)
    assert "error: broken.tif: cannot be read as a raster" in done.stderr
    assert done.stderr.endswith("error: 1 of 3 scenes failed, see above; the maps of the others are in maps\n")
    assert {path.name for path in (folder / "maps").glob("*.tif")} == {"first.tif", "second.tif"}
    data = scene(40, 60, 0)
    expected = np.where(data.any(axis=0), pixel_probabilities(data).argmax(0) + 1, 0)
    np.testing.assert_array_equal(tifffile.imread(folder / "maps/first.tif"), expected)
    second = tifffile.imread(folder / "maps/second.tif")
    assert not second[data[0] > 0].any(), "what is not 0 in the mask is left out"
    assert "maps/first.tif: 40x60 pixels" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "nothing to predict; give --scene s2=PATH[,s1=PATH]"), (("--scene_list=nowhere.txt",), "nowhere.txt: No such file")],
)
def test_wrong_commands(folder, arguments, message):
    refused = run(folder, "--export=export", *arguments, status=1)
    assert refused.stderr.startswith(f"error: {message}") and refused.stderr.count("\n") == 1


def test_names_of_maps(tmp_path):
    first, second = {"s2": "a/first.tif"}, {"mask": "clouds.tif", "s2": "b.SAFE"}
    assert predict.outputs(tmp_path / "map.tif", [first]) == {tmp_path / "map.tif": first}
    assert predict.outputs(tmp_path, [first, second]) == {tmp_path / "first.tif": first, tmp_path / "b.tif": second}
    with pytest.raises(
        UserError, match=r"map\.tif: no such folder; make it, or give another --output for the maps of 2 scenes"
    ):
        predict.outputs(tmp_path / "map.tif", [first, second])
    with pytest.raises(UserError, match=r"b/first\.zip: another scene's map is called .*first\.tif too"):
        predict.outputs(tmp_path, [first, {"s2": "b/first.zip"}])


def test_terminated_command_leaves_nothing(folder, tmp_path):
    big = write(tmp_path / "big.tif", scene(1500, 1500), names=BANDS)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "experiments.predict", f"--export={folder}/export", f"--scene=s2={big}"]
    command += [f"--output={tmp_path}/out/map.tif", "--window=16", "--batch_size=1"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not any((tmp_path / "out").iterdir()):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 143 and "error: SIGTERM: interrupted; maps are whole or not there" in error, error
    assert not any((tmp_path / "out").iterdir())
