import struct
import zipfile

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tfrs import geotiff
from tfrs.errors import BadPatch
from tfrs.geotiff import Raster

PLACE = {"crs": "EPSG:32633", "transform": (10.0, 0.0, 399960.125, 0.0, -10.0, 5300040.0)}


def decode(path):
    """Pixels (C, H, W), EPSG code and transform as tifffile sees them."""
    with tifffile.TiffFile(path) as file:
        pixels, page = file.asarray(), file.pages[0]
        if pixels.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.CONTIG:
            pixels = pixels.transpose(2, 0, 1)
        keys = file.geotiff_metadata
        width, height, _ = keys["ModelPixelScale"]
        column, row, _, x, y, _ = keys["ModelTiepoint"]
        assert (column, row) == (0, 0)
        return pixels.reshape(-1, *pixels.shape[-2:]), keys["ProjectedCSTypeGeoKey"].value, (width, 0, x, 0, -height, y)


def assert_reads_as_tifffile(path):
    raster, (pixels, epsg, transform) = geotiff.read(path), decode(path)
    np.testing.assert_array_equal(raster.data, pixels)
    assert raster.data.dtype == pixels.dtype
    assert raster.crs == f"EPSG:{epsg}"
    assert raster.transform == transform
    return raster


@pytest.mark.parametrize("name", ["AnnualCrop/AnnualCrop_1.tif", "Pasture/Pasture_300.tif"])
def test_eurosat_files(shared, name):
    raster = assert_reads_as_tifffile(shared / "data" / "eurosat_ms" / name)
    assert (raster.data.shape, raster.data.dtype) == ((13, 64, 64), np.uint16)
    assert raster.nodata is None


@pytest.mark.parametrize(("folder", "dtype"), [("BigEarthNet-v1.0", np.uint16), ("BigEarthNet-S1-v1.0", np.float32)])
def test_bigearthnet_files(shared, folder, dtype):
    files = sorted((shared / "data" / "bigearthnet_v1" / folder).glob("*/*.tif"))
    assert files
    for path in files:
        assert assert_reads_as_tifffile(path).data.dtype == dtype


def test_scene_bands(shared):
    for path in sorted((shared / "data" / "scenes").glob("*/B0[1-5].tif")):
        raster = geotiff.read(path)
        with Image.open(path) as image:  # LZW, which tifffile cannot undo by itself
            np.testing.assert_array_equal(raster.data[0], np.asarray(image))
        keys = tifffile.TiffFile(path).geotiff_metadata
        assert raster.crs == f"EPSG:{keys['ProjectedCSTypeGeoKey'].value}"
        assert raster.transform[2::3] == tuple(keys["ModelTiepoint"][3:5])


def test_jpeg_within_a_zip(shared):
    archive = shared / "data" / "EuroSAT_RGB.zip"
    for name in ("2750/River/River_12.jpg", "2750/SeaLake/SeaLake_3000.jpg", "2750/Residential/Residential_77.jpg"):
        raster = geotiff.read(f"/vsizip/{archive}/{name}")
        with zipfile.ZipFile(archive) as members, members.open(name) as file, Image.open(file) as image:
            expected = np.asarray(image).transpose(2, 0, 1)
        assert (raster.data.shape, raster.data.dtype) == ((3, 64, 64), np.uint8)
        # Decoders are free in how they enlarge the chroma: libjpeg 9 in rasterio's wheel and libjpeg-turbo in Pillow agree
        # in luma (BT.601) wherever no channel is clipped, and in the mean color.
        difference = raster.data.astype(float) - expected
        inside = ((raster.data % 255 > 0) & (expected % 255 > 0)).all(axis=0)
        assert inside.mean() > 0.5
        assert np.abs(np.tensordot([0.299, 0.587, 0.114], difference, 1))[inside].max() <= 1
        assert np.abs(difference.mean(axis=(1, 2))).max() < 0.2
        assert (raster.crs, raster.transform) == ("", (1, 0, 0, 0, 1, 0))


@given(
    st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]).flatmap(
        lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)))
    ),
    st.integers(32601, 32660),
    st.floats(0.5, 1000),
    st.tuples(st.floats(1e5, 9e5), st.floats(0, 1e7)),
)
def test_what_is_written(tmp_path_factory, pixels, epsg, size, corner):
    path = tmp_path_factory.mktemp("written") / "patch.tif"
    place = (size, 0.0, corner[0], 0.0, -size, corner[1])
    geotiff.write(path, Raster(pixels, f"EPSG:{epsg}", place))
    found, code, transform = decode(path)
    np.testing.assert_array_equal(found, pixels)
    assert (found.dtype, code, transform) == (pixels.dtype, epsg, place)
    assert [entry.name for entry in path.parent.iterdir()] == ["patch.tif"]
    again = geotiff.read(path)
    np.testing.assert_array_equal(again.data, pixels)
    assert (again.crs, again.transform) == (f"EPSG:{epsg}", place)


def test_nodata_and_band_names(tmp_path):
    pixels = np.array([[[1.5, -9999]], [[0, 2]]], np.float32)
    geotiff.write(tmp_path / "s1.tif", Raster(pixels, **PLACE, nodata=-9999, descriptions=("VV", "VH")))
    with tifffile.TiffFile(tmp_path / "s1.tif") as file:
        assert file.pages[0].nodata == -9999
        assert all(f">{band}</Item>" in file.pages[0].tags["GDAL_METADATA"].value for band in ("VV", "VH"))
    raster = geotiff.read(tmp_path / "s1.tif")
    assert (raster.nodata, raster.descriptions) == (-9999, ("VV", "VH"))


def test_creation_options(tmp_path):
    pixels = np.zeros((2, 300, 300), np.uint16)
    geotiff.write(tmp_path / "small.tif", Raster(pixels, **PLACE), compress="deflate", tiled=True)
    with tifffile.TiffFile(tmp_path / "small.tif") as file:
        assert file.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert file.pages[0].is_tiled
    np.testing.assert_array_equal(decode(tmp_path / "small.tif")[0], pixels)


def test_without_georeference(tmp_path):
    geotiff.write(tmp_path / "bare.tif", Raster(np.ones((1, 3, 3), np.uint8)))
    raster = geotiff.read(tmp_path / "bare.tif")
    assert (raster.crs, raster.transform, raster.nodata, raster.descriptions) == ("", (1, 0, 0, 0, 1, 0), None, ("",))


def test_a_sidecar_file_changes_nothing(tmp_path):
    geotiff.write(tmp_path / "a.tif", Raster(np.ones((1, 3, 3), np.uint8), **PLACE))
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:4326</SRS></PAMDataset>")
    assert geotiff.read(tmp_path / "a.tif").crs == "EPSG:32633"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BadPatch) as error:
        geotiff.read(tmp_path / "no.tif")
    assert (error.value.path, error.value.reason) == (str(tmp_path / "no.tif"), "no such file")
    assert str(error.value) == f"{tmp_path / 'no.tif'}: no such file"


def test_missing_member_of_a_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    path = f"/vsizip/{tmp_path / 'a.zip'}/River/River_1.jpg"
    with pytest.raises(BadPatch) as error:
        geotiff.read(path)
    assert error.value.path == path


@pytest.mark.parametrize("content", [b"", b"II*\0", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_raster_is_named(tmp_path, content):
    path = tmp_path / "bad.tif"
    path.write_bytes(content)
    with pytest.raises(BadPatch, match="cannot be read") as error:
        geotiff.read(path)
    assert error.value.path == str(path)


@pytest.mark.parametrize(
    ("tag", "value", "says"), [(257, 452984844, "1 bands of 452984844x32"), (277, 40000, "40000 bands of 32x32")]
)
def test_a_damaged_file_that_speaks_of_far_more_pixels_is_refused_at_once(tmp_path, tag, value, says):
    path = tmp_path / "patch.tif"
    geotiff.write(path, Raster(np.ones((1, 32, 32), np.uint16), **PLACE))
    content = bytearray(path.read_bytes())
    (at,) = struct.unpack_from("<I", content, 4)
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", content, at)[0], 12):
        if struct.unpack_from("<H", content, entry)[0] == tag:
            struct.pack_into("<HII", content, entry + 2, 4, 1, value)
    path.write_bytes(content)
    with pytest.raises(BadPatch, match=f"says that it has {says} pixels, in {len(content)} bytes"):
        geotiff.read(path)


@pytest.mark.parametrize("options", [{}, {"compress": "deflate"}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_truncated_file_never_gives_pixels(tmp_path, options):
    """Wherever the file ends, it is refused, or nothing of its pixels was in what is missing."""
    pixels = np.random.default_rng(0).integers(1, 9999, (3, 32, 32), dtype=np.uint16)
    path = tmp_path / "patch.tif"
    geotiff.write(path, Raster(pixels, **PLACE), **options)
    whole, refused = path.read_bytes(), 0
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        try:
            found = geotiff.read(path).data
        except BadPatch as error:
            assert error.path == str(path)
            refused += 1
        else:
            np.testing.assert_array_equal(found, pixels)
    assert refused > len(whole) // 61 * 0.9
