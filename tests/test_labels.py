import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfrs import labels

# Schmitt & Wu 2021, Table 2: IGBP number -> simplified number.
SIMPLIFIED = {
    1: 1,
    2: 1,
    3: 1,
    4: 1,
    5: 1,
    6: 2,
    7: 2,
    8: 3,
    9: 3,
    10: 4,
    11: 5,
    12: 6,
    13: 7,
    14: 6,
    15: 8,
    16: 9,
    17: 10,
}
TABLE_2 = [
    (1, "Forest", "009900"),
    (2, "Shrubland", "c6b044"),
    (3, "Savanna", "fbff13"),
    (4, "Grassland", "b6ff05"),
    (5, "Wetlands", "27ff87"),
    (6, "Croplands", "c24f44"),
    (7, "Urban/Built-up", "a5a5a5"),
    (8, "Snow/Ice", "69fff8"),
    (9, "Barren", "f9ffa4"),
    (10, "Water", "1c0dff"),
]


@pytest.mark.parametrize(("igbp", "simplified"), SIMPLIFIED.items())
def test_igbp_class_merges_into(igbp, simplified):
    fractions = np.zeros(17, np.float32)
    fractions[igbp - 1] = 1
    expected = np.zeros(10)
    expected[simplified - 1] = 1
    np.testing.assert_array_equal(fractions @ labels.merge_matrix("igbp", "igbp_simplified"), expected)


def test_merging_sums_fractions():
    fractions = np.zeros(17, np.float32)
    fractions[[11, 13, 16]] = 0.25, 0.5, 0.25  # croplands, cropland mosaics, water
    merged = fractions @ labels.merge_matrix("igbp", "igbp_simplified")
    np.testing.assert_array_equal(merged, [0, 0, 0, 0, 0, 0.75, 0, 0, 0, 0.25])


def test_a_scheme_merges_into_itself_unchanged():
    np.testing.assert_array_equal(labels.merge_matrix("igbp", "igbp"), np.eye(17))


def test_simplified_legend_is_that_of_table_2():
    scheme = labels.IGBP_SIMPLIFIED
    assert list(zip(scheme.numbers, scheme.classes, scheme.colors, strict=True)) == TABLE_2


def test_simplified_colors_stand_for_a_class_of_the_full_legend_too():
    assert set(labels.IGBP_SIMPLIFIED.colors) <= set(labels.IGBP.colors)


def test_igbp_legend():
    assert labels.IGBP.numbers == tuple(range(1, 18))
    assert [labels.IGBP.classes[number - 1] for number in (1, 5, 9, 12, 13, 14, 17)] == [
        "Evergreen Needleleaf Forest",
        "Mixed Forest",
        "Savannas",
        "Croplands",
        "Urban and Built-up Lands",
        "Cropland/Natural Vegetation Mosaics",
        "Water Bodies",
    ]


def test_eurosat_classes_are_its_folders():
    folders = "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake"
    assert list(labels.EUROSAT.classes) == folders.split()


@pytest.mark.parametrize("name", labels.SCHEMES)
def test_legends_are_complete(name):
    scheme = labels.SCHEMES[name]
    assert scheme.name == name
    for column in (scheme.classes, scheme.numbers, scheme.colors):
        assert len(column) == len(set(column)) == len(scheme.classes)
    assert all(re.fullmatch("[0-9a-f]{6}", color) for color in scheme.colors)


def test_multisenge_legend_is_that_of_table_1():
    # The paper prints "Groces" for groves, an error of spelling.
    names = [
        "Dense Built-Up",
        "Sparse Built-Up",
        "Specialized Built-Up Areas",
        "Specialized but Vegetative Areas",
        "Large Scale Networks",
        "Arable Lands",
        "Vineyards",
        "Orchards",
        "Grasslands",
        "Groves, Hedges",
        "Forests",
        "Open Spaces, Mineral",
        "Wetlands",
        "Water Surfaces",
    ]
    assert dict(zip(labels.MULTISENGE.numbers, labels.MULTISENGE.classes, strict=True)) == dict(enumerate(names, 1))


def test_urban_task_keeps_five_classes_and_sums_the_rest():
    fractions = np.arange(14.0)
    urban = fractions @ labels.merge_matrix("multisenge", "multisenge_urban")
    assert urban.tolist() == [0, 1, 2, 3, 4, sum(range(5, 14))]
    assert labels.MULTISENGE_URBAN.numbers == (1, 2, 3, 4, 5, 6)
    assert labels.MULTISENGE_URBAN.classes[:5] == labels.MULTISENGE.classes[:5]


maps = hnp.arrays(np.uint16, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([0, 1, 2, 17, 255]))


@given(maps)
def test_pixels_are_counted_as_by_numpy(values):
    found = labels.histogram(values, 30)
    np.testing.assert_array_equal(found, np.bincount(values.ravel(), minlength=30))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(labels.IGBP.count(values), [(values == number).sum() for number in range(1, 18)])
