"""Digital numbers, reflectance, offsets, decibels and display values, told apart by a sample."""

import numpy as np
import pytest

from tfrs.errors import UserError
from tfrs.geotiff import Grid, Header
from tfrs.scene_source import Product
from tfrs.scene_values import NOTHING, Said, conversion, convert, level_note, plain
from tfrs.sensors import DECIBEL, sentinel2

S2 = {"bands": ("B02", "B8A"), "dtype": "uint16", "unit": sentinel2().unit, "nodata": 0}
S1 = {"bands": ("VV", "VH"), "dtype": "float32", "unit": DECIBEL, "nodata": None}
RGB = {"bands": ("B04", "B03", "B02"), "dtype": "uint8", "unit": "display intensity 0..255", "nodata": None}
UNKNOWN = Product()
DARK = np.array([[90, 800, 4000], [150, 2500, 6000]], np.uint16)
OFFSET = DARK + np.uint16(1000)


def applied(sensor, values, product=UNKNOWN, said=NOTHING, nodata=None):
    """The image that the model gets, from values (C, N) that are their own sample, and the notes."""
    start = plain(sensor, Header(Grid("", (), 1, 1), values.dtype.name, nodata, ()))
    sample = values[:, ~np.isnan(values).any(axis=0)] if values.dtype.kind == "f" else values
    found, notes = conversion("x.tif", sensor, start, sample, product, said)
    image, known = convert(values[:, None], found)
    assert image.dtype == sensor["dtype"]
    return image[:, 0], known[0], notes


def test_digital_numbers_pass():
    image, known, notes = applied(S2, DARK)
    np.testing.assert_array_equal(image, DARK)
    assert known.all() and not notes


@pytest.mark.parametrize(
    ("product", "said", "note"),
    [
        (Product("L2A", 509), Said(), r"-1000 to digital numbers \(baseline 05\.09\)"),
        (Product("", None), Said(s2_offset=-1000), r"-1000 to digital numbers \(--s2_offset\)"),
        (
            Product("L2A", 509, (("B02", -1000.0), ("B8A", -1000.0))),
            Said(),
            "-1000 to digital numbers, as the product's metadata say",
        ),
    ],
)
def test_offset_of_newer_products(product, said, note):
    image, _, (told,) = applied(S2, OFFSET, product, said)
    np.testing.assert_array_equal(image, DARK)
    assert note.replace("\\", "") in told


def test_offset_leaves_dark_pixels_with_data_and_those_without_without():
    values = np.array([[1100, 0, 900, 1000], [1200, 0, 5000, 3000]], np.uint16)
    image, known, _ = applied(S2, values, said=Said(s2_offset=-1000))
    np.testing.assert_array_equal(image, [[100, 0, 1, 1], [200, 0, 4000, 2000]])
    np.testing.assert_array_equal(known, [True, False, True, True])


def test_offsets_of_each_band():
    image, _, _ = applied(S2, OFFSET, Product("L2A", 509, (("B02", -1000.0), ("B8A", -900.0))))
    np.testing.assert_array_equal(image, DARK + np.array([[0], [100]]))


def test_offset_zero_by_metadata_is_believed():
    image, _, notes = applied(S2, OFFSET, Product("L1C", 204, (("B02", 0.0), ("B8A", 0.0))))
    np.testing.assert_array_equal(image, OFFSET)
    assert not notes


def test_reflectance_by_a_scale():
    image, known, _ = applied(S2, np.array([[0.01, 0.25, np.nan], [0.5, 1.2, 0.3]], np.float32), said=Said(s2_scale=10000))
    np.testing.assert_array_equal(image, [[100, 2500, 0], [5000, 12000, 0]])
    np.testing.assert_array_equal(known, [True, True, False])


def test_other_integers_and_nodata_of_the_file():
    image, known, _ = applied(S2, np.array([[90, 800, -9999], [150, 2500, -9999]], np.int16), nodata=-9999.0)
    np.testing.assert_array_equal(image, [[90, 800, 0], [150, 2500, 0]])
    np.testing.assert_array_equal(known, [True, True, False])


def test_decibels_pass_and_linear_backscatter_by_a_flag():
    decibels = np.array([[-11.0, 3.0, -30.0], [-18.0, -20.0, -22.5]], np.float32)
    image, _, _ = applied(S1, decibels)
    np.testing.assert_array_equal(image, decibels)
    power = np.concatenate([10 ** (decibels / 10), np.zeros((2, 1), np.float32)], axis=1)
    image, known, (note,) = applied(S1, power, said=Said(s1_linear=True))
    np.testing.assert_allclose(image[:, :3], decibels, atol=1e-5)
    assert np.isnan(image[:, 3]).all() and known.tolist() == [True, True, True, False] and "converted to decibels" in note


def test_display_values_by_the_stretch_of_eurosat():
    """254 grey levels over 2750 digital numbers, brighter ones saturate."""
    image, _, _ = applied(RGB, np.array([[0, 2750, 1375]] * 3, np.uint16), said=Said(white=2750))
    np.testing.assert_array_equal(image, [[1, 255, 128]] * 3)
    image, _, _ = applied(RGB, np.full((3, 1), 9000, np.uint16), said=Said(white=2750))
    np.testing.assert_array_equal(image, [[255]] * 3)


@pytest.mark.parametrize(
    ("sensor", "values", "product", "said", "message"),
    [
        (S2, np.array([[0.1, 0.2], [0.3, 1.2]], np.float32), Product(), Said(), "look like reflectance.*give --s2_scale=10000"),
        (S2, np.array([[1, 200], [3, 255]], np.uint8), Product(), Said(), "values up to 255 look like a display image"),
        (S2, DARK.astype(np.float32), Product(), Said(s2_scale=10000), "beyond 65,535"),
        (
            S2,
            DARK,
            Product("L1C", 400),
            Said(),
            r"baseline 04\.00 adds 1000.*are below 1000.*give --s2_offset=0 or --s2_offset=-1000",
        ),
        (S2, OFFSET, Product(), Said(), "are not below 1000, as in products of baseline 04.00.*give --s2_offset=-1000, or"),
        (S2, OFFSET, Product("L2A", 9999), Said(), "give --s2_offset=-1000, or"),
        (
            S1,
            np.array([[0.08, 0.3], [0.01, 0.02]], np.float32),
            Product(),
            Said(),
            "look like linear backscatter.*give --s1_linear",
        ),
        (S1, np.array([[-8.0, -9.0], [-12.0, -14.0]], np.float32), Product(), Said(s1_linear=True), "leave out --s1_linear"),
        (RGB, np.array([[90, 3000]] * 3, np.uint16), Product(), Said(), "give --white=2750, the stretch of EuroSAT RGB"),
    ],
)
def test_refused(sensor, values, product, said, message):
    with pytest.raises(UserError, match=message):
        applied(sensor, values, product, said)


def test_no_data_in_the_sample_is_told():
    _, notes = conversion(
        "x.tif", S2, plain(S2, Header(Grid("", (), 1, 1), "uint16", None, ())), DARK[:, :0], Product(), Said()
    )
    assert "no data where the values were to be checked" in notes[0]


def test_processing_level():
    assert (
        "at the surface (L2A), the model learned from eurosat at the top of atmosphere"
        in level_note("x", Product("L2A"), "eurosat")[0]
    )
    assert not level_note("x", Product("L1C"), "eurosat") and not level_note("x", Product(), "eurosat")
    assert not level_note("x", Product("L2A"), "of the user")
