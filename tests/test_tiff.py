import functools
import sys

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.errors import RasterioError

from tfrs import geotiff, tiff
from tfrs.errors import BadPatch
from tfrs.geotiff import Raster

PLACE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 399960.125, 0, -10, 5300040)}


def by_rasterio(path):
    """The raster as rasterio gives it, None where it gives none."""
    try:
        with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(path) as source:
            crs = source.crs.to_string() if source.crs else ""
            descriptions = tuple(name or "" for name in source.descriptions)
            return Raster(source.read(), crs, tuple(source.transform)[:6], source.nodata, descriptions)
    except (RasterioError, UnicodeDecodeError):
        return None


def assert_same(found, expected):
    assert found.data.dtype == expected.data.dtype
    np.testing.assert_array_equal(found.data, expected.data)
    for name in ("crs", "transform", "descriptions"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_equal(found.nodata, expected.nodata)  # NaN as well
    assert type(found.nodata) is type(expected.nodata)


def assert_read(path, direct=True):
    """Twice, because the first file of a CRS goes to GDAL."""
    expected = by_rasterio(path)
    assert (tiff.read(path.read_bytes()) is not None) == direct
    for _ in range(2):
        assert_same(geotiff.read(path), expected)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("tiff") / "patch.tif"


def images(*dtypes):
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
    return st.sampled_from(dtypes).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64")


@given(images(*DTYPES), st.booleans(), st.sampled_from("<>"), st.integers(1, 10))
def test_as_tifffile_writes(path, image, planar, order, rows):
    pages = image if planar else image.transpose(1, 2, 0)
    layout = {"planarconfig": "separate" if planar else "contig"} if len(image) > 1 else {}
    pages = pages if len(image) > 1 else image[0]
    with tifffile.TiffWriter(path, byteorder=order) as file:
        file.write(pages, photometric="minisblack", rowsperstrip=rows, metadata=None, **layout)
    np.testing.assert_array_equal(tiff.read(path.read_bytes()).data, image)
    assert_read(path)


NODATA = {"u": (None, 0, 255), "i": (None, -1, 0), "f": (None, -9999, float("nan"), 0.5, 1e-5, 0.1)}
PLACES = (
    {},
    PLACE,
    {**PLACE, "transform": rasterio.Affine(10.00570688714736, 0, 624602.2348443292, 0, -9.994088099999352, 4877286.033637)},
    {"crs": "EPSG:4326", "transform": rasterio.Affine(0.001, 0, 11.5, 0, -0.0015, 48.25)},
    {**PLACE, "transform": rasterio.Affine(8, 2, 4e5, 1, -9, 5e6)},
    {"crs": "+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80 +units=m", "transform": PLACE["transform"]},
)


COMPRESSIONS = [{}, *({"compress": name, **more} for name in ("deflate", "lzw") for more in ({}, {"predictor": 2}))]


@given(images(*DTYPES), st.data())
def test_as_rasterio_writes(path, image, data):
    nodata = data.draw(st.sampled_from(NODATA[image.dtype.kind]))
    names = data.draw(st.sampled_from(((), ("VV", "a band", "<&>", "é", " x "), ("B02", "", "B04", "B05", ""))))
    image[:, -1, -1] = 1  # GDAL pads a last strip of zeros alone, which is read by GDAL then
    bands, height, width = image.shape
    options = {
        "interleave": data.draw(st.sampled_from(("band", "pixel"))),
        "blockysize": data.draw(st.integers(1, 10)),
        "ENDIANNESS": data.draw(st.sampled_from(("LITTLE", "BIG"))),
        **data.draw(st.sampled_from(COMPRESSIONS)),
        "photometric": data.draw(st.sampled_from(("MINISBLACK", "RGB"))) if bands > 2 else "MINISBLACK",
        **data.draw(st.sampled_from(PLACES)),
    }
    if image.dtype.kind == "f":
        options.pop("predictor", None)
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": image.dtype, "nodata": nodata}
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(image)
        if names:
            file.descriptions = names[:bands]
    unusual = any(name.strip(" <&>é") != name for name in names[:bands]) or nodata in (1e-5, 0.1)
    expected = by_rasterio(path)
    np.testing.assert_array_equal(expected.data, image)
    assert (tiff.read(path.read_bytes()) is not None) or unusual
    for _ in range(2):
        assert_same(geotiff.read(path), expected)


def test_a_raster_of_a_new_crs_is_not_given_the_last_one(path):
    for code in (32601, 32602, 32601, 4326):
        write(path, IMAGE, crs=f"EPSG:{code}")
        assert geotiff.read(path).crs == f"EPSG:{code}"


def test_every_real_file(shared):
    paths = sorted((shared / "data").rglob("*.tif"))
    assert len(paths) > 80
    for path in paths:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
        plain = page.compression.name in ("NONE", "LZW", "ADOBE_DEFLATE") and not page.is_tiled
        assert_read(path, direct=plain)


def write(path, image, **options):
    bands, height, width = image.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": image.dtype, **PLACE, **options}
    with rasterio.open(path, "w", **profile) as file:
        file.write(image)


IMAGE = np.random.default_rng(0).integers(1, 99, (3, 32, 32), dtype=np.uint16)


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "deflate", "predictor": 3, "dtype": "float32"},
        {"compress": "zstd"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"BIGTIFF": "YES"},
        {"dtype": "uint8", "photometric": "MINISWHITE"},
        {"dtype": "uint8", "photometric": "YCBCR", "compress": "JPEG"},
        {"NBITS": 12},
        {"dtype": "float32", "NBITS": 16},
        {"dtype": "complex64"},
        {"dtype": "int64"},
        {"crs": None},
        {"SPARSE_OK": True, "sparse": True},
    ],
    ids=str,
)
def test_anything_else_goes_to_gdal(path, options):
    image = IMAGE.astype(options.get("dtype", "uint16"))
    options = {**options, "dtype": image.dtype}
    write(path, image * (not options.pop("sparse", False)), **options)
    assert_read(path, direct=False)


def test_large_lzw_files_go_to_gdal(path):
    for factor, direct in ((8, True), (16, False)):
        write(path, IMAGE.repeat(factor, 1).repeat(factor, 2), compress="lzw")
        assert_read(path, direct=direct)


def test_without_imagecodecs_large_deflated_files_and_lzw_go_to_gdal(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    for cached in (tiff._codecs, tiff._said, tiff._layout):
        monkeypatch.setattr(tiff, cached.__name__, functools.cache(cached.__wrapped__))
    write(path, IMAGE, compress="deflate", predictor=2)
    assert_read(path, direct=True)
    write(path, IMAGE.repeat(8, 1).repeat(8, 2), compress="deflate")
    assert_read(path, direct=False)
    write(path, IMAGE, compress="lzw")
    assert_read(path, direct=False)


def test_point_rasters_overviews_masks_and_palettes_go_to_gdal(path):
    write(path, IMAGE)
    with rasterio.open(path, "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    assert_read(path, direct=False)
    write(path, IMAGE)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2])
    assert_read(path, direct=False)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write(path, IMAGE)
        with rasterio.open(path, "r+") as file:
            file.write_mask(IMAGE[0] > 50)
    assert_read(path, direct=False)
    write(path, IMAGE[:1].astype(np.uint8), photometric="PALETTE")
    assert_read(path, direct=False)


def damaged(content, seed=0):
    """The file with one bit of every other byte turned, one at a time, and cut at many lengths."""
    rng = np.random.default_rng(seed)
    for at, byte in list(enumerate(content))[seed % 2 :: 2]:
        yield content[:at] + bytes([byte ^ 1 << rng.integers(8)]) + content[at + 1 :]
    for length in range(0, len(content), 13):
        yield content[:length]


# rasterio's log cannot show every damaged text.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"interleave": "band"},
        {"interleave": "pixel", "ENDIANNESS": "BIG"},
        {"compress": "deflate", "predictor": 2},
        {"compress": "lzw"},
    ],
    ids=str,
)
def test_damaged_files_are_read_as_by_rasterio_or_refused(path, options):
    write(path, IMAGE[:, :3, :5], blockysize=1, nodata=5, **options)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("B02", "a band", "B04")
    direct = refused = 0
    for bad in damaged(path.read_bytes()):
        path.write_bytes(bad)
        expected, plain = by_rasterio(path), tiff.read(bad)
        if expected is None:
            refused += 1
            with pytest.raises(BadPatch, match="cannot be read"):
                geotiff.read(path)
        elif plain is not None:
            direct += 1
            assert_same(geotiff.read(path), expected)
    # In pixels and in most numbers damage leaves no trace.
    assert direct > 100
    assert refused > 50
