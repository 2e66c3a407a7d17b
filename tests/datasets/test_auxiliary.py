import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import rasterio.warp
import tifffile

from tfrs import geotiff
from tfrs.datasets.auxiliary import WithAuxiliary
from tfrs.datasets.bigearthnet import BigEarthNet
from tfrs.datasets.eurosat import EuroSat, EuroSatRgb
from tfrs.errors import UserError
from tfrs.geotiff import Raster
from tfrs.records import Records


def cover(path, raster, crs="EPSG:3035", pixel=10.0):
    """A layer in another CRS around a patch: value 1 to the left of the patch's middle column, 2 to its right, by centre."""
    a, _, c, _, e, f = raster.transform
    rows, columns = raster.data.shape[1:]
    west, south, east, north = rasterio.warp.transform_bounds(raster.crs, crs, c, f + e * rows, c + a * columns, f)
    width, height = int((east - west) / pixel) + 20, int((north - south) / pixel) + 20
    place = (pixel, 0.0, west - 10 * pixel, 0.0, -pixel, north + 10 * pixel)
    x, y = np.meshgrid(place[2] + pixel * (np.arange(width) + 0.5), place[5] - pixel * (np.arange(height) + 0.5))
    east_of, _ = rasterio.warp.transform(crs, raster.crs, x.ravel(), y.ravel())
    values = np.where(np.array(east_of).reshape(x.shape) < c + a * columns / 2, 1, 2).astype(np.uint8)
    geotiff.write(path, Raster(values[None], crs, place))


def halves(found):
    """Share of each half that has its value; the border is off by at most a pixel of either grid."""
    middle = found.shape[-1] // 2
    return (found[0, :, : middle - 2] == 1).all() and (found[0, :, middle + 2 :] == 2).all()


def test_layers_on_real_eurosat_patches(shared, tmp_path):
    root = shared / "data" / "eurosat_ms"
    for key in EuroSat().index(root, "train"):
        patch = geotiff.read(root / key.split("_")[0] / f"{key}.tif")
        cover(tmp_path / f"{key}.tif", patch)
        dataset = WithAuxiliary(EuroSat(), (("side", str(tmp_path / f"{key}.tif")),))
        sample = dataset.read(root, key)
        assert sample["side"].shape == (1, 64, 64) and sample["side"].dtype == np.uint8
        assert halves(sample["side"])
        np.testing.assert_array_equal(sample["s2"], EuroSat().read(root, key)["s2"])


@pytest.mark.parametrize("native", [False, True])
def test_layers_on_real_bigearthnet_patches(shared, tmp_path, native):
    root = shared / "data" / "bigearthnet_v1"
    base = BigEarthNet(native_resolution=native, keep_unrecommended=True)
    for folder in sorted((root / "BigEarthNet-v1.0").iterdir()):
        cover(tmp_path / "layer.tif", geotiff.read(folder / f"{folder.name}_B02.tif"))
        os.replace(tmp_path / "layer.tif", tmp_path / f"{folder.name}.tif")
        sample = WithAuxiliary(base, (("side", str(tmp_path / f"{folder.name}.tif")),)).read(root, folder.name)
        assert sample["side"].shape == (1, 120, 120) and halves(sample["side"])


def test_layers_stay_with_a_data_set_that_goes_to_another_process(tmp_path):
    geotiff.write(tmp_path / "a.tif", Raster(np.zeros((1, 8, 8), np.int16), "EPSG:32633", (10.0, 0, 0, 0, -10.0, 0)))
    dataset = pickle.loads(pickle.dumps(WithAuxiliary(EuroSat(seed=3), (("a", str(tmp_path / "a.tif")),))))
    assert (dataset.name, dataset.seed, dataset.schema.fields["a"].dtype) == ("eurosat", 3, "int16")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WithAuxiliary(EuroSatRgb(), (("gsw", "x.tif"),)), "eurosat_rgb' has no georeference"),
        (lambda: WithAuxiliary(EuroSat(), (("s2", "x.tif"),)), "'s2' cannot be the name of a layer"),
        (lambda: WithAuxiliary(EuroSat(), (("a b", "x.tif"),)), "'a b' cannot be the name of a layer"),
        (lambda: WithAuxiliary(EuroSat(), (("gsw", "no/*.tif"),)).schema, r"no/\*\.tif: no such file for --aux"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_build_through_the_command(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "tfrecords_builder", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    run("--dataset=eurosat", "--synthesize=30", "--output=plain")
    patches = sorted((tmp_path / "data/eurosat").rglob("*.tif"))
    for path in patches:  # one layer file per patch: the pattern names them all
        raster = geotiff.read(path)
        folder = tmp_path / "water"
        folder.mkdir(exist_ok=True)
        geotiff.write(folder / path.name, Raster(raster.data[:1] // 100, raster.crs, raster.transform))
    done = run("--dataset=eurosat", "--aux=water=water/*.tif", "--workers=2", "--shard_mb=1")
    assert "quarantine" not in done.stdout.splitlines()[0]
    assert "ok: 30 records" in run("verify", "records").stdout
    records = Records(tmp_path / "records")
    assert records.manifest["spec"]["layers"] == [["water", "water/*.tif"]]
    for sample in records.samples("train"):
        source = tifffile.imread(next(path for path in patches if path.stem == sample["key"]))
        bands_last = source if source.shape[-1] == 13 else np.moveaxis(source, 0, -1)
        np.testing.assert_array_equal(sample["water"][0], bands_last[..., 0] // 100)
    assert json.loads((tmp_path / "records/eurosat/1.0.0/features.json").read_text())
