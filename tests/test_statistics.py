import functools
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfrs.sensors import Sensor, sentinel1, sentinel2
from tfrs.statistics import PUBLISHED, BandStatistics, Measuring

shapes = st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 5))
decibels = st.floats(-60, 30, width=32) | st.just(float("nan")) | st.just(-32768.0)
images = shapes.flatmap(
    lambda shape: (
        hnp.arrays(np.float32, shape, elements=decibels)
        | hnp.arrays(np.uint16, shape, elements=st.integers(0, 3) | st.integers(0, 65535))
    )
)


def reference(image, nodata):
    """Per band, the valid values as float64, the number of NaN and the number of nodata values."""
    bands = image.reshape(len(image), -1).astype(np.float64)
    return [(b[~np.isnan(b) & (b != nodata)], np.isnan(b).sum(), (b == nodata).sum()) for b in bands]


def assert_equal_to_numpy(found, image, nodata):
    rows = found.to_json(Sensor("s", ("A", "B"), str(image.dtype), "unit"))
    for row, (values, nan, empty) in zip(rows.values(), reference(image, nodata), strict=True):
        assert (row["count"], row["nan"], row["nodata"]) == (len(values), nan, empty)
        if not len(values):
            assert [row[name] for name in ("mean", "std", "min", "max")] == [None] * 4
            continue
        assert (row["min"], row["max"]) == (values.min(), values.max())
        np.testing.assert_allclose(row["mean"], values.mean(), rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(row["std"], values.std(), rtol=1e-9, atol=1e-9)


@given(images, st.sampled_from([None, 0, -32768.0]))
def test_measure(image, nodata):
    assert_equal_to_numpy(BandStatistics.measure(image, nodata), image, np.inf if nodata is None else nodata)


@given(st.lists(images.filter(lambda image: image.dtype == np.float32), min_size=1, max_size=6), st.data())
def test_merge_in_any_grouping(parts, data):
    whole = np.concatenate([part.reshape(2, -1) for part in parts], axis=1)[:, :, None]
    measured = [BandStatistics.measure(part, -32768.0) for part in parts]
    while len(measured) > 1:
        first = measured.pop(data.draw(st.integers(0, len(measured) - 1)))
        second = measured.pop(data.draw(st.integers(0, len(measured) - 1)))
        measured.append(first.merge(second))
    assert_equal_to_numpy(measured[0], whole, -32768.0)


@given(st.lists(images, min_size=1, max_size=6), st.integers(1, 40))
def test_small_images_are_measured_together(images, block):
    images = [image for image in images if image.dtype == images[0].dtype]
    measuring = Measuring(Sensor("s", ("A", "B"), str(images[0].dtype), "unit", nodata=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfrs.statistics._BLOCK", block)
        for image in images:
            measuring.add(image)
        whole = np.concatenate([image.reshape(2, -1) for image in images], axis=1)[:, :, None]
        assert_equal_to_numpy(measuring.result(), whole, 0)


def test_hand_worked():
    image = np.array([[[1, 2], [3, 0]], [[0, 0], [0, 0]]], np.uint16)
    assert BandStatistics.measure(image, nodata=0).to_json(Sensor("s", ("A", "B"), "uint16", "unit")) == {
        "A": {"count": 3, "mean": 2.0, "std": np.sqrt(2 / 3), "min": 1.0, "max": 3.0, "nan": 0, "nodata": 1},
        "B": {"count": 0, "mean": None, "std": None, "min": None, "max": None, "nan": 0, "nodata": 4},
    }


def test_sums_of_large_images_with_nodata_do_not_overflow():
    image = np.where(np.random.default_rng(0).random((1, 1024, 1024)) < 0.3, 28000, 900).astype(np.uint16)
    image[0, 0, 0] = 0
    found = BandStatistics.measure(image, nodata=0)
    assert np.sqrt(found.squares / found.count) == pytest.approx([image[image > 0].std(dtype=np.float64)], rel=1e-12)


def test_a_small_spread_around_a_large_mean_survives_many_merges():
    rng = np.random.default_rng(0)
    image = 1e8 + rng.normal(0, 1, (1, 400, 50))
    parts = [BandStatistics.measure(row[None, None]) for row in image[0]]
    merged = functools.reduce(BandStatistics.merge, parts, BandStatistics.empty(1))
    np.testing.assert_allclose(np.sqrt(merged.squares / merged.count), image.std(), rtol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize("nodata", [None, 0])
def test_integers_are_exact_also_in_images_measured_in_blocks(dtype, nodata):
    limits = np.iinfo(dtype)
    image = np.random.default_rng(0).integers(limits.min, limits.max, (3, 260, 260), endpoint=True).astype(dtype)
    image[1] = limits.max
    image[2] |= 1  # no zero
    found = BandStatistics.measure(image, nodata)
    for band in range(3):
        values = [value for value in image[band].ravel().tolist() if value != nodata]
        mean = Fraction(sum(values), len(values))
        assert found.count[band] == len(values)
        assert found.mean[band] == float(mean)
        assert found.squares[band] == float(sum(value * value for value in values) - mean * sum(values))
        assert (found.minimum[band], found.maximum[band]) == (min(values), max(values))


def test_all_decibels_above_0_and_far_below_count():
    image = np.array([[[9.7, -42.5]], [[0.0, -0.25]]], np.float32)
    rows = BandStatistics.measure(image, sentinel1().nodata).to_json(sentinel1())
    assert (rows["VV"]["max"], rows["VV"]["min"]) == (np.float32(9.7), -42.5)
    assert rows["VH"]["mean"] == -0.125


@given(images)
def test_lists_keep_every_digit_through_json(image):
    measured = BandStatistics.measure(image, 0)
    again = BandStatistics.from_lists(json.loads(json.dumps(measured.to_lists())))
    for name, value in vars(measured).items():
        np.testing.assert_array_equal(vars(again)[name], value)


def test_empty_changes_nothing():
    measured = BandStatistics.measure(np.arange(1, 9, dtype=np.uint16).reshape(2, 2, 2))
    for merged in (BandStatistics.empty(2).merge(measured), measured.merge(BandStatistics.empty(2))):
        assert_equal_to_numpy(merged, np.arange(1, 9, dtype=np.uint16).reshape(2, 2, 2), np.inf)


# Rows as published: mean, then standard deviation.
SEN12MS = """
1226.4215 1137.3799 1139.6792 1350.9973 1932.9058 2211.1584 2154.9846 2409.1128 2001.8622 1356.0801 -11.76858 -18.294598
741.6254 740.883 960.1045 946.76056 985.52747 1082.4341 1057.7628 1136.1942 1132.7898 991.48016 4.525339 4.3586307
"""
BIGEARTHNET = """
340.77 429.94 614.22 590.24 950.68 1792.46 2075.47 2218.95 2266.46 2246.06 1594.43 1009.33 -12.6200 -19.2904
554.81 572.42 582.88 675.89 729.90 1096.01 1273.45 1365.46 1356.14 1302.33 1079.19 818.87 5.1159 5.4644
"""
LAND_BANDS = "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"


@pytest.mark.parametrize(
    ("name", "rows", "bands"),
    [
        ("sen12ms", SEN12MS, "B02 B03 B04 B05 B06 B07 B08 B8A B11 B12"),
        ("bigearthnet", BIGEARTHNET, LAND_BANDS),
    ],
)
def test_published_statistics(name, rows, bands):
    mean, std = (list(map(float, line.split())) for line in rows.strip().splitlines())
    expected = dict(zip([*bands.split(), "VV", "VH"], zip(mean, std, strict=True), strict=True))
    assert PUBLISHED[name]["s2"] | PUBLISHED[name]["s1"] == expected
    assert set(PUBLISHED[name]["s2"]) <= set(sentinel2().bands)


def test_published_clipping():
    assert PUBLISHED["sen12ms"]["clip"] == {"s1": (-25, 0)}
    assert PUBLISHED["bigearthnet"]["clip"] == {}
