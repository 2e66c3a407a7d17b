import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrs import sensors
from tfrs.errors import UserError
from tfrs.sensors import Sensor

ESA = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
EUROSAT_FILE = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"]
SURFACE = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]


def optical(bands):
    return Sensor("s2", tuple(bands), "uint16", "digital number")


SEN12MS = {"s2": optical(ESA), "s1": Sensor("s1", ("VV", "VH"), "float32", "decibel")}
EUROSAT = {"s2": optical(EUROSAT_FILE)}
RGB = {"rgb": Sensor("rgb", ("B04", "B03", "B02"), "uint8", "intensity")}


def lists(resolved):
    return {name: list(bands) for name, bands in resolved.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s2_rgb", {"s2": ["B04", "B03", "B02"]}),
        ("s2_ms", {"s2": SURFACE}),
        ("s1s2", {"s2": SURFACE, "s1": ["VV", "VH"]}),
        ("s1", {"s1": ["VV", "VH"]}),
        ("s2_10m", {"s2": ["B02", "B03", "B04", "B08"]}),
        ("s2_all", {"s2": ESA}),
        ("irrg", {"s2": ["B08", "B04", "B03"]}),
        ("irrg_index", {"s2": ["B08", "B04", "B03", "NDVI", "NDBI", "eNDVI"]}),
    ],
)
def test_named_inputs(name, expected):
    found = sensors.resolve(name, SEN12MS)
    assert lists(found) == expected
    assert list(found) == list(expected)  # s2 channels come before s1


def test_rgb_edition():
    assert lists(sensors.resolve("rgb", RGB)) == {"rgb": ["B04", "B03", "B02"]}


def test_all_bands_come_in_esa_order_whatever_the_file_has():
    assert lists(sensors.resolve("s2_all", EUROSAT)) == {"s2": ESA}
    assert EUROSAT["s2"].index(ESA) == (0, 1, 2, 3, 4, 5, 6, 7, 12, 8, 9, 10, 11)
    without_cirrus = [band for band in EUROSAT_FILE if band != "B10"]
    assert lists(sensors.resolve("s2_all", {"s2": optical(without_cirrus)}))["s2"] == [b for b in ESA if b != "B10"]


def test_surface_bands_of_eurosat_are_found_by_name():
    assert EUROSAT["s2"].index(SURFACE) == (1, 2, 3, 4, 5, 6, 7, 12, 10, 11)
    assert SEN12MS["s2"].index(SURFACE) == (1, 2, 3, 4, 5, 6, 7, 8, 11, 12)


@given(st.permutations(ESA), st.lists(st.sampled_from(ESA), unique=True, min_size=1))
def test_index_selects_the_bands_named(file_order, wanted):
    image = np.array([ESA.index(band) for band in file_order])
    assert [ESA[i] for i in image[list(optical(file_order).index(wanted))]] == wanted


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("B02,B03,B04", {"s2": ["B02", "B03", "B04"]}),
        ("B12", {"s2": ["B12"]}),
        ("VH,B8A,VV", {"s1": ["VH", "VV"], "s2": ["B8A"]}),
        ("s2:B04,B03+s1:VV", {"s2": ["B04", "B03"], "s1": ["VV"]}),
        ("B04+s1:VV", {"s2": ["B04"], "s1": ["VV"]}),
        ("NDVI,VV,B04", {"s2": ["NDVI", "B04"], "s1": ["VV"]}),
        ("s2:B08,NDVI+s1:VV", {"s2": ["B08", "NDVI"], "s1": ["VV"]}),
    ],
)
def test_explicit_lists(spec, expected):
    found = sensors.resolve(spec, SEN12MS)
    assert lists(found) == expected
    assert list(found) == list(expected)


@pytest.mark.parametrize(
    ("spec", "records", "message"),
    [
        ("s2_rbg", SEN12MS, r"unknown input or band 's2_rbg'\. Did you mean 's2_rgb'\?"),
        ("B02,B8a", SEN12MS, r"unknown input or band 'B8a'\. Did you mean 'B8A'\?"),
        ("B02,", SEN12MS, r"unknown input or band ''"),
        ("", SEN12MS, r"unknown input or band ''"),
        ("qqqqqq", SEN12MS, r"unknown input or band 'qqqqqq'\. Known: s2_rgb, s2_ms, .*VV"),
        ("VV", EUROSAT, r"unknown input or band 'VV'"),
        ("s2:B13", SEN12MS, r"sensor 's2' has no band B13; it has B01, B02"),
        ("s2_ms", {"s2": optical(["B02", "B04", "B03"])}, r"no band B05, B06, B07, B08, B8A, B11, B12; it has B02, B04, B03"),
        ("s3:B04", SEN12MS, r"'s3:B04' needs sensor 's3', but the records have s2, s1;"),
        ("s1s2", EUROSAT, r"'s1s2' needs sensor 's1', but the records have s2; inputs that fit: s2_rgb, s2_ms, s2_10m"),
        ("s2_ms", RGB, r"'s2_ms' needs sensor 's2', but the records have rgb; inputs that fit: rgb$"),
        ("B02,B03,B02", SEN12MS, r"names band B02 twice"),
        ("B02+s2:B02", SEN12MS, r"names band B02 twice"),
        ("B02,NDWI,NDWI", SEN12MS, r"names band NDWI twice"),
        ("B02,NDV", SEN12MS, r"unknown input or band 'NDV'\. Did you mean 'NDVI'\?"),
        ("B04,NDVI", RGB, r"^index NDVI needs band B08, which the records lack: rgb has B04, B03, B02$"),
        ("rgb:BSI", RGB, r"^index BSI needs band B11, B08, which the records lack: rgb has"),
        (
            "irrg_index",
            {"s2": optical(["B08", "B04", "B03"])},
            r"^index NDBI needs band B11, which the records lack: s2 has B08,",
        ),
        ("s1:NDVI", SEN12MS, r"^index NDVI needs band B08, B04, which the records lack: s1 has VV, VH$"),
        ("NDVI", {**SEN12MS, "l2a": SEN12MS["s2"]}, r"NDVI is a band of s2 and l2a; write s2:NDVI"),
    ],
)
def test_what_the_records_lack_is_said(spec, records, message):
    with pytest.raises(UserError) as error:
        sensors.resolve(spec, records)
    assert re.search(message, str(error.value))
    assert "\n" not in str(error.value)


def test_selected_sensors_keep_all_but_the_bands():
    chosen = sensors.select(SEN12MS, {"s1": ("VH",)})
    assert chosen == {"s1": Sensor("s1", ("VH",), "float32", "decibel")}


@pytest.mark.parametrize(
    ("spec", "bands"),
    [
        ("irrg_index", ["B08", "B04", "B03", "B11"]),
        ("NDBI,B04,NDVI,B03", ["B04", "B03", "B11", "B08"]),
        ("MNDWI", ["B03", "B11"]),
    ],
)
def test_bands_that_only_indices_need_go_in_after_the_others(spec, bands):
    (chosen,) = sensors.select(SEN12MS, sensors.resolve(spec, SEN12MS)).values()
    assert list(chosen.bands) == bands
    assert chosen.channels == sensors.resolve(spec, SEN12MS)["s2"]
    assert (chosen.name, chosen.dtype, chosen.unit, chosen.nodata) == ("s2", "uint16", "digital number", None)


def test_without_indices_the_channels_are_the_bands():
    chosen = sensors.select(SEN12MS, {"s2": ("B04", "B03")})["s2"]
    assert chosen.channels == chosen.bands == ("B04", "B03")
    assert list(vars(chosen)) == ["name", "bands", "dtype", "unit", "nodata"]  # what manifests hold


@pytest.mark.parametrize(
    ("bands", "shown"),
    [(ESA, ["B04", "B03", "B02"]), (["B08", "B04", "B11"], ["B08", "B04", "B11"]), (["VV", "VH"], ["VV"])],
)
def test_bands_of_a_picture(bands, shown):
    assert list(optical(bands).display()) == shown


def test_sentinel_sensors():
    assert list(sensors.sentinel2().bands) == ESA
    assert (sensors.sentinel2().dtype, sensors.sentinel2().nodata) == ("uint16", 0)
    assert (sensors.sentinel1().bands, sensors.sentinel1().dtype) == (("VV", "VH"), "float32")


def test_bands_kept_at_their_resolution_are_found_in_their_parts():
    parts = {
        "s2_10m": Sensor("s2_10m", ("B02", "B03", "B04", "B08"), "uint16", "DN"),
        "s2_20m": Sensor("s2_20m", ("B05", "B11"), "uint16", "DN"),
        "s1": sensors.sentinel1(),
    }
    assert sensors.resolve("irrg", parts) == {"s2_10m": ("B08", "B04", "B03")}
    assert sensors.resolve("s2_all", parts) == {"s2_10m": ("B02", "B03", "B04", "B08"), "s2_20m": ("B05", "B11")}
    assert sensors.resolve("s1", parts) == {"s1": ("VV", "VH")}
    assert sensors.resolve("B03,NDVI", parts) == {"s2_10m": ("B03", "NDVI")}
    for spec in ("irrg_index", "NDBI", "B08,NDBI"):
        message = (
            r"index NDBI needs its bands in one raster \(B11 in s2_20m, B08 in s2_10m\); build .* without --native_resolution"
        )
        with pytest.raises(UserError, match=message):
            sensors.resolve(spec, parts)
