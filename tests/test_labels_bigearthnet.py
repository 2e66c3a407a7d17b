import numpy as np

from tfrs.labels import BIGEARTHNET_19, BIGEARTHNET_43, merge_matrix

# Number and name in the 43-class nomenclature -> name in the 19-class one (Sumbul et al. 2021, Table I), by hand.
PAIRS = {
    (111, "Continuous urban fabric"): "Urban fabric",
    (112, "Discontinuous urban fabric"): "Urban fabric",
    (121, "Industrial or commercial units"): "Industrial or commercial units",
    (122, "Road and rail networks and associated land"): None,
    (123, "Port areas"): None,
    (124, "Airports"): None,
    (131, "Mineral extraction sites"): None,
    (132, "Dump sites"): None,
    (133, "Construction sites"): None,
    (141, "Green urban areas"): None,
    (142, "Sport and leisure facilities"): None,
    (211, "Non-irrigated arable land"): "Arable land",
    (212, "Permanently irrigated land"): "Arable land",
    (213, "Rice fields"): "Arable land",
    (221, "Vineyards"): "Permanent crops",
    (222, "Fruit trees and berry plantations"): "Permanent crops",
    (223, "Olive groves"): "Permanent crops",
    (231, "Pastures"): "Pastures",
    (241, "Annual crops associated with permanent crops"): "Permanent crops",
    (242, "Complex cultivation patterns"): "Complex cultivation patterns",
    (243, "Land principally occupied by agriculture, with significant areas of natural vegetation"): (
        "Land principally occupied by agriculture, with significant areas of natural vegetation"
    ),
    (244, "Agro-forestry areas"): "Agro-forestry areas",
    (311, "Broad-leaved forest"): "Broad-leaved forest",
    (312, "Coniferous forest"): "Coniferous forest",
    (313, "Mixed forest"): "Mixed forest",
    (321, "Natural grassland"): "Natural grassland and sparsely vegetated areas",
    (322, "Moors and heathland"): "Moors, heathland and sclerophyllous vegetation",
    (323, "Sclerophyllous vegetation"): "Moors, heathland and sclerophyllous vegetation",
    (324, "Transitional woodland/shrub"): "Transitional woodland, shrub",
    (331, "Beaches, dunes, sands"): "Beaches, dunes, sands",
    (332, "Bare rock"): None,
    (333, "Sparsely vegetated areas"): "Natural grassland and sparsely vegetated areas",
    (334, "Burnt areas"): None,
    (411, "Inland marshes"): "Inland wetlands",
    (412, "Peatbogs"): "Inland wetlands",
    (421, "Salt marshes"): "Coastal wetlands",
    (422, "Salines"): "Coastal wetlands",
    (423, "Intertidal flats"): None,
    (511, "Water courses"): "Inland waters",
    (512, "Water bodies"): "Inland waters",
    (521, "Coastal lagoons"): "Marine waters",
    (522, "Estuaries"): "Marine waters",
    (523, "Sea and ocean"): "Marine waters",
}


def test_all_43_pairs():
    matrix = merge_matrix("bigearthnet_43", "bigearthnet_19")
    assert matrix.shape == (43, 19)
    found = {
        (number, name): next((BIGEARTHNET_19.classes[i] for i in np.flatnonzero(row)), None)
        for number, name, row in zip(BIGEARTHNET_43.numbers, BIGEARTHNET_43.classes, matrix, strict=True)
    }
    assert found == PAIRS
    assert (matrix.sum(axis=1) <= 1).all()


def test_43_classes_are_in_clc_order_and_the_19_follow_it():
    assert BIGEARTHNET_43.numbers == tuple(sorted(BIGEARTHNET_43.numbers))
    first = [list(PAIRS.values()).index(name) for name in BIGEARTHNET_19.classes]
    assert first == sorted(first)
    assert sum(target is None for target in PAIRS.values()) == 11


def test_dropped_classes_add_to_nothing():
    fractions = np.zeros(43, np.float32)
    fractions[BIGEARTHNET_43.numbers.index(124)] = 0.75
    fractions[BIGEARTHNET_43.numbers.index(523)] = 0.25
    expected = np.zeros(19, np.float32)
    expected[18] = 0.25
    np.testing.assert_array_equal(fractions @ merge_matrix("bigearthnet_43", "bigearthnet_19"), expected)


def test_merge_of_igbp_is_as_before():
    matrix = merge_matrix("igbp", "igbp_simplified")
    assert matrix.argmax(axis=1).tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 5, 7, 8, 9]
    np.testing.assert_array_equal(merge_matrix("igbp", "igbp"), np.eye(17))
