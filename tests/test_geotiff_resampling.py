import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.warp import reproject

from tfrs import geotiff
from tfrs.geotiff import Raster

KERNELS = {
    "nearest": lambda x: (x >= -0.5) & (x < 0.5),
    "bilinear": lambda x: np.clip(1 - np.abs(x), 0, None),
    # Keys 1981 with a = -0.5.
    "cubic": lambda x: np.select(
        [np.abs(x) <= 1, np.abs(x) < 2],
        [1.5 * np.abs(x) ** 3 - 2.5 * x**2 + 1, -0.5 * np.abs(x) ** 3 + 2.5 * x**2 - 4 * np.abs(x) + 2],
    ),
}


@pytest.fixture(params=[60, 20])
def band(request, tmp_path):
    size = request.param
    data = np.random.default_rng(size).integers(1, 9000, (1, size, size)).astype(np.uint16)
    raster = Raster(data, "EPSG:32633", (1200 / size, 0.0, 404400.0, 0.0, -1200 / size, 5342400.0))
    geotiff.write(tmp_path / "band.tif", raster)
    return tmp_path / "band.tif", raster


@pytest.mark.parametrize("method", geotiff.RESAMPLING)
def test_resampling_is_gdals_and_that_of_the_kernel(band, method):
    path, raster = band
    found = geotiff.read(path, (120, 120), method)
    assert (found.data.dtype, found.data.shape) == (np.uint16, (1, 120, 120))
    assert (found.crs, found.transform) == ("EPSG:32633", (10.0, 0.0, 404400.0, 0.0, -10.0, 5342400.0))
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(found.data, source.read(out_shape=(1, 120, 120), resampling=Resampling[method]))

    size = raster.data.shape[-1]
    centres = (np.arange(120) + 0.5) * size / 120 - 0.5
    weights = KERNELS[method](centres[:, None] - np.arange(size)).astype(float)
    weights /= weights.sum(axis=1, keepdims=True)  # at the edge, over the pixels there are
    expected = np.floor(weights @ raster.data[0] @ weights.T + 0.5)
    difference = np.abs(found.data[0] - np.clip(expected, 0, 65535))
    assert difference.max() <= 1  # a half may fall to either side
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("method", geotiff.RESAMPLING)
def test_resampling_agrees_with_gdalwarp(band, method):
    path, raster = band
    warped = np.zeros((120, 120), np.uint16)
    reproject(
        raster.data[0],
        warped,
        src_transform=rasterio.Affine(*raster.transform),
        src_crs=raster.crs,
        dst_transform=rasterio.Affine(10, 0, 404400, 0, -10, 5342400),
        dst_crs=raster.crs,
        resampling=Resampling[method],
    )
    # Where the cubic kernel passes the edge, gdalwarp takes the bilinear one.
    margin = 12 if method == "cubic" else 0
    inner = np.s_[margin : 120 - margin, margin : 120 - margin]
    found = geotiff.read(path, (120, 120), method).data[0]
    assert np.abs(found[inner].astype(int) - warped[inner]).max() <= 1


def test_bilinear_stays_within_the_measured_values_and_cubic_does_not(tmp_path):
    step = np.full((1, 60, 60), 100, np.uint16)
    step[:, :, 30:] = 5000
    geotiff.write(tmp_path / "step.tif", Raster(step))
    bilinear, cubic = (geotiff.read(tmp_path / "step.tif", (120, 120), method).data for method in ("bilinear", "cubic"))
    assert (bilinear.min(), bilinear.max()) == (100, 5000)
    assert cubic.min() == 0  # 100 less an overshoot, cut off at the type's end
    assert cubic.max() > 5000


def test_own_size_is_untouched(band):
    path, raster = band
    found = geotiff.read(path)
    np.testing.assert_array_equal(found.data, raster.data)
    assert found.transform == raster.transform
