import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.warp import reproject

from tfrs import geotiff
from tfrs.geotiff import Raster
from tfrs.resampling import METHODS, resample

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


@pytest.mark.parametrize("method", METHODS)
def test_resampling_is_gdals_and_that_of_the_kernel(band, method):
    path, raster = band
    found = resample(geotiff.read(path), (120, 120), method)
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


@pytest.mark.parametrize("method", METHODS)
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
    found = resample(geotiff.read(path), (120, 120), method).data[0]
    assert np.abs(found[inner].astype(int) - warped[inner]).max() <= 1


def test_bilinear_stays_within_the_measured_values_and_cubic_does_not():
    step = np.full((1, 60, 60), 100, np.uint16)
    step[:, :, 30:] = 5000
    bilinear, cubic = (resample(Raster(step), (120, 120), method).data for method in ("bilinear", "cubic"))
    assert (bilinear.min(), bilinear.max()) == (100, 5000)
    assert cubic.min() == 0  # 100 less an overshoot, cut off at the type's end
    assert cubic.max() > 5000


def test_own_size_is_untouched(band):
    path, raster = band
    found = geotiff.read(path)
    np.testing.assert_array_equal(found.data, raster.data)
    assert found.transform == raster.transform


@pytest.mark.parametrize("nodata", [None, 0, 7])
@pytest.mark.parametrize("factor", [1, 2, 3, 6, 11, 12])
def test_whole_factors_give_gdals_values(tmp_path, factor, nodata):
    """Sums of 2 * factor weights fall onto halves, where one wrong rounding shows."""
    for size, highest in ((1, 9), (2, 3), (7, 255), (20, 65535)):
        data = np.random.default_rng(size).integers(0, highest, (2, size, size + 1), endpoint=True).astype(np.uint16)
        raster = Raster(data, "EPSG:32633", (60.0, 0.0, 404400.0, 0.0, -60.0, 5342400.0), nodata)
        geotiff.write(tmp_path / "band.tif", raster)
        for method in METHODS:
            shape = (2, factor * size, factor * (size + 1))
            with rasterio.open(tmp_path / "band.tif") as source:
                expected = source.read(out_shape=shape, resampling=Resampling[method])
            np.testing.assert_array_equal(resample(raster, shape[1:], method).data, expected)


@pytest.mark.parametrize("size", [(30, 30), (100, 90), (60, 120)])
def test_other_sizes_give_gdals_values(band, size):
    path, raster = band
    with rasterio.open(path) as source:
        for method in METHODS:
            expected = source.read(out_shape=(1, *size), resampling=Resampling[method])
            np.testing.assert_array_equal(resample(raster, size, method).data, expected)
