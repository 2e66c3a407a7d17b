import itertools

import numpy as np
import pytest
import rasterio
import rasterio.warp

from tfrs import geotiff, warp
from tfrs.errors import BadPatch, UserError
from tfrs.geotiff import Raster

UTM = "EPSG:32633"
PATCH = (10.0, 0.0, 400_000.0, 0.0, -10.0, 5_800_000.0)
SIZE = (120, 120)


def layer(path, crs, pixel, *, nodata=None, margin=30, seed=0, shift=(0.0, 0.0)):
    """A raster of random classes in `crs` that covers the patch and `margin` pixels of its own around it."""
    bounds = rasterio.transform.array_bounds(*SIZE, rasterio.Affine(*PATCH))
    west, south, east, north = rasterio.warp.transform_bounds(UTM, crs, *bounds)
    columns, rows = (int((high - low) / pixel) + 2 * margin for low, high in ((west, east), (south, north)))
    place = (pixel, 0.0, west - margin * pixel + shift[0], 0.0, -pixel, north + margin * pixel + shift[1])
    data = np.random.default_rng(seed).integers(1, 200, (1, rows, columns)).astype(np.uint8)
    geotiff.write(path, Raster(data, crs, place, nodata))
    return data[0], place


@pytest.mark.parametrize(
    ("crs", "pixel"),
    [(UTM, 10.0), (UTM, 25.0), ("EPSG:3035", 10.0), ("EPSG:3035", 2.5), ("EPSG:4326", 0.00025), ("EPSG:32632", 30.0)],
)
def test_gdals_own_result(tmp_path, crs, pixel):
    """`gdalwarp -r near`; both may round a centre that falls on the edge of a source pixel to either side."""
    data, place = layer(tmp_path / "layer.tif", crs, pixel, shift=(0.31 * pixel, 0.17 * pixel))
    reference = np.zeros(SIZE, np.uint8)
    rasterio.warp.reproject(
        data,
        reference,
        src_transform=rasterio.Affine(*place),
        src_crs=crs,
        dst_transform=rasterio.Affine(*PATCH),
        dst_crs=UTM,
        resampling=rasterio.warp.Resampling.nearest,
        tolerance=0,
    )
    found = warp.onto((str(tmp_path / "layer.tif"),), UTM, PATCH, SIZE)
    assert found.shape == (1, *SIZE) and found.dtype == np.uint8
    differs = found[0] != reference
    assert differs.mean() < 0.002
    rows, columns = np.nonzero(differs)
    centres = rasterio.Affine(*PATCH) * (columns + 0.5, rows + 0.5)
    at = np.array(~rasterio.Affine(*place) * np.array(rasterio.warp.transform(UTM, crs, *centres)))
    assert (np.abs(at - np.rint(at)).min(axis=0) < 0.002).all(), "in source pixels, from the nearest edge"


def test_several_files_fill_each_others_gaps_in_order(tmp_path):
    """Four quarters of one raster, and a fifth file of other values below them that must not show."""
    data, place = layer(tmp_path / "whole.tif", UTM, 10.0, margin=0)
    half = 60
    for row, column in itertools.product((0, half), repeat=2):
        corner = (10.0, 0.0, place[2] + 10 * column, 0.0, -10.0, place[5] - 10 * row)
        part = data[None, row : row + half, column : column + half]
        geotiff.write(tmp_path / f"part_{row}_{column}.tif", Raster(part, UTM, corner))
    layer(tmp_path / "zz.tif", UTM, 10.0, seed=1)
    files = tuple(map(str, [*sorted(tmp_path.glob("part_*.tif")), tmp_path / "zz.tif"]))
    np.testing.assert_array_equal(warp.onto(files, UTM, PATCH, SIZE)[0], data)


def test_uncovered_pixels_are_nodata_where_it_is_declared(tmp_path):
    half = np.full((1, 120, 60), 7, np.uint8)
    geotiff.write(tmp_path / "half.tif", Raster(half, UTM, PATCH, nodata=255))
    found = warp.onto((str(tmp_path / "half.tif"),), UTM, PATCH, SIZE)[0]
    assert (found[:, :60] == 7).all() and (found[:, 60:] == 255).all()


def test_uncovered_pixels_without_nodata_make_a_bad_patch(tmp_path):
    geotiff.write(tmp_path / "half.tif", Raster(np.full((1, 120, 60), 7, np.uint8), UTM, PATCH))
    with pytest.raises(BadPatch, match=r"half\.tif: leaves 7200 of 14400 pixels uncovered and declares no nodata value"):
        warp.onto((str(tmp_path / "half.tif"),), UTM, PATCH, SIZE)


@pytest.mark.parametrize(
    ("raster", "message"),
    [
        (Raster(np.zeros((1, 8, 8), np.uint8)), "has no CRS"),
        (Raster(np.zeros((2, 8, 8), np.uint8), UTM, PATCH), "has 2 bands, a layer has one"),
    ],
)
def test_rasters_that_are_no_layer(tmp_path, raster, message):
    geotiff.write(tmp_path / "layer.tif", raster)
    with pytest.raises(UserError, match=rf"layer\.tif: {message}"):
        warp.dtype(str(tmp_path / "layer.tif"))
