"""Class schemes: ordered names, numbers and colours, and the maps between schemes."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Scheme:
    """An ordered legend. A class id is the position in the legend, counted from 0.

    Attributes:
        name: Name of the scheme.
        classes: Class names in the order of the legend.
        numbers: The number that stands for each class in label rasters and publications.
        colors: RGB as six hexadecimal digits, one per class.
    """

    name: str
    classes: tuple[str, ...]
    numbers: tuple[int, ...]
    colors: tuple[str, ...]

    def to_json(self) -> dict:
        return {"name": self.name, "classes": self.classes, "numbers": self.numbers, "colors": self.colors}

    def without(self, classes: Collection[str]) -> "Scheme":
        """The scheme without some of its classes; the others keep their numbers and colours."""
        rows = zip(self.numbers, self.classes, self.colors, strict=True)
        return _scheme(self.name, [row for row in rows if row[1] not in classes])

    def palette(self) -> np.ndarray:
        """Colours (256, 3) uint8 by class id; black for IGNORE and ids that are no class."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.colors)] = [list(bytes.fromhex(color)) for color in self.colors]
        return table

    def count(self, numbers: np.ndarray) -> np.ndarray:
        """Pixels (classes,) of each class in a map of the scheme's numbers; other numbers are no class."""
        return histogram(numbers, max(self.numbers) + 1)[list(self.numbers)]


def histogram(values: np.ndarray, minlength: int) -> np.ndarray:
    """What `np.bincount` gives for a map (H, W), four times as fast for land cover: it is counted by runs of equal values."""
    flat = values.ravel()
    is_last = np.ones(len(flat), bool)
    np.not_equal(flat[1:], flat[:-1], out=is_last[:-1])
    (last,) = is_last.nonzero()
    lengths = last + 1
    lengths[1:] -= last[:-1] + 1
    return np.bincount(flat[last], lengths, minlength).astype(np.int64)


def _scheme(name: str, rows: list[tuple[int, str, str]]) -> Scheme:
    numbers, classes, colors = zip(*rows, strict=True)
    return Scheme(name, classes, numbers, colors)


# MODIS MCD12Q1 legend; colours of the product's user guide.
IGBP = _scheme(
    "igbp",
    [
        (1, "Evergreen Needleleaf Forest", "05450a"),
        (2, "Evergreen Broadleaf Forest", "086a10"),
        (3, "Deciduous Needleleaf Forest", "54a708"),
        (4, "Deciduous Broadleaf Forest", "78d203"),
        (5, "Mixed Forest", "009900"),
        (6, "Closed Shrublands", "c6b044"),
        (7, "Open Shrublands", "dcd159"),
        (8, "Woody Savannas", "dade48"),
        (9, "Savannas", "fbff13"),
        (10, "Grasslands", "b6ff05"),
        (11, "Permanent Wetlands", "27ff87"),
        (12, "Croplands", "c24f44"),
        (13, "Urban and Built-up Lands", "a5a5a5"),
        (14, "Cropland/Natural Vegetation Mosaics", "ff6d4c"),
        (15, "Permanent Snow and Ice", "69fff8"),
        (16, "Barren", "f9ffa4"),
        (17, "Water Bodies", "1c0dff"),
    ],
)

# Schmitt & Wu 2021, Table 2.
IGBP_SIMPLIFIED = _scheme(
    "igbp_simplified",
    [
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
    ],
)

# The classes of the IEEE GRSS Data Fusion Contest 2020 (Yokoya et al. 2020): the simplified ones without Savanna and Snow/Ice,
# which do not occur in its high-resolution reference; their numbers and colours stay.
DFC2020 = replace(IGBP_SIMPLIFIED.without(("Savanna", "Snow/Ice")), name="dfc2020")

# The class folders of EuroSAT in alphabetical order; the publication has no numbers and no colours, so both are ours.
EUROSAT = _scheme(
    "eurosat",
    [
        (1, "AnnualCrop", "e8c33a"),
        (2, "Forest", "1b7a2f"),
        (3, "HerbaceousVegetation", "9bd65a"),
        (4, "Highway", "6b6b6b"),
        (5, "Industrial", "9a4fb0"),
        (6, "Pasture", "c5e384"),
        (7, "PermanentCrop", "d98032"),
        (8, "Residential", "d7323a"),
        (9, "River", "4aa3df"),
        (10, "SeaLake", "14418b"),
    ],
)

# CORINE Land Cover level 3 without 335 (glaciers), which BigEarthNet does not have; names as BigEarthNet spells them, numbers
# and colours of the CLC nomenclature.
BIGEARTHNET_43 = _scheme(
    "bigearthnet_43",
    [
        (111, "Continuous urban fabric", "e6004d"),
        (112, "Discontinuous urban fabric", "ff0000"),
        (121, "Industrial or commercial units", "cc4df2"),
        (122, "Road and rail networks and associated land", "cc0000"),
        (123, "Port areas", "e6cccc"),
        (124, "Airports", "e6cce6"),
        (131, "Mineral extraction sites", "a600cc"),
        (132, "Dump sites", "a64d00"),
        (133, "Construction sites", "ff4dff"),
        (141, "Green urban areas", "ffa6ff"),
        (142, "Sport and leisure facilities", "ffe6ff"),
        (211, "Non-irrigated arable land", "ffffa8"),
        (212, "Permanently irrigated land", "ffff00"),
        (213, "Rice fields", "e6e600"),
        (221, "Vineyards", "e68000"),
        (222, "Fruit trees and berry plantations", "f2a64d"),
        (223, "Olive groves", "e6a600"),
        (231, "Pastures", "e6e64d"),
        (241, "Annual crops associated with permanent crops", "ffe6a6"),
        (242, "Complex cultivation patterns", "ffe64d"),
        (243, "Land principally occupied by agriculture, with significant areas of natural vegetation", "e6cc4d"),
        (244, "Agro-forestry areas", "f2cca6"),
        (311, "Broad-leaved forest", "80ff00"),
        (312, "Coniferous forest", "00a600"),
        (313, "Mixed forest", "4dff00"),
        (321, "Natural grassland", "ccf24d"),
        (322, "Moors and heathland", "a6ff80"),
        (323, "Sclerophyllous vegetation", "a6e64d"),
        (324, "Transitional woodland/shrub", "a6f200"),
        (331, "Beaches, dunes, sands", "e6e6e6"),
        (332, "Bare rock", "cccccc"),
        (333, "Sparsely vegetated areas", "ccffcc"),
        (334, "Burnt areas", "000000"),
        (411, "Inland marshes", "a6a6ff"),
        (412, "Peatbogs", "4d4dff"),
        (421, "Salt marshes", "ccccff"),
        (422, "Salines", "e6e6ff"),
        (423, "Intertidal flats", "a6a6e6"),
        (511, "Water courses", "00ccf2"),
        (512, "Water bodies", "80f2e6"),
        (521, "Coastal lagoons", "00ffa6"),
        (522, "Estuaries", "a6ffe6"),
        (523, "Sea and ocean", "e6f2ff"),
    ],
)

# Sumbul et al. 2021, in CLC order; it has no colours: each is that of one of the CLC classes merged.
BIGEARTHNET_19 = _scheme(
    "bigearthnet_19",
    [
        (1, "Urban fabric", "ff0000"),
        (2, "Industrial or commercial units", "cc4df2"),
        (3, "Arable land", "ffffa8"),
        (4, "Permanent crops", "e68000"),
        (5, "Pastures", "e6e64d"),
        (6, "Complex cultivation patterns", "ffe64d"),
        (7, "Land principally occupied by agriculture, with significant areas of natural vegetation", "e6cc4d"),
        (8, "Agro-forestry areas", "f2cca6"),
        (9, "Broad-leaved forest", "80ff00"),
        (10, "Coniferous forest", "00a600"),
        (11, "Mixed forest", "4dff00"),
        (12, "Natural grassland and sparsely vegetated areas", "ccf24d"),
        (13, "Moors, heathland and sclerophyllous vegetation", "a6ff80"),
        (14, "Transitional woodland, shrub", "a6f200"),
        (15, "Beaches, dunes, sands", "e6e6e6"),
        (16, "Inland wetlands", "a6a6ff"),
        (17, "Coastal wetlands", "ccccff"),
        (18, "Inland waters", "80f2e6"),
        (19, "Marine waters", "e6f2ff"),
    ],
)

# Wenger et al. 2022, Table 1. The colours of its Figure 4 are not in the text, so these are ours.
MULTISENGE = _scheme(
    "multisenge",
    [
        (1, "Dense Built-Up", "a50f15"),
        (2, "Sparse Built-Up", "e34a33"),
        (3, "Specialized Built-Up Areas", "9a4fb0"),
        (4, "Specialized but Vegetative Areas", "8fd6a0"),
        (5, "Large Scale Networks", "5a5a5a"),
        (6, "Arable Lands", "f2e394"),
        (7, "Vineyards", "b5739d"),
        (8, "Orchards", "d98032"),
        (9, "Grasslands", "b6d957"),
        (10, "Groves, Hedges", "6aa84f"),
        (11, "Forests", "1b7a2f"),
        (12, "Open Spaces, Mineral", "c9bfb0"),
        (13, "Wetlands", "4fb3a5"),
        (14, "Water Surfaces", "2a6fbb"),
    ],
)

# The urban task of its section 4: classes 1 to 5, and all others as class 6.
MULTISENGE_URBAN = _scheme(
    "multisenge_urban",
    [
        *zip(MULTISENGE.numbers[:5], MULTISENGE.classes[:5], MULTISENGE.colors[:5], strict=True),
        (6, "Other", "e6e6dc"),
    ],
)

# The aggregation classes of SatImNet (Syrris et al. 2020, section 3.1); colours ours.
WATER_BUILT_UP = _scheme("water_built_up", [(1, "Water", "1c6dd0"), (2, "Built-up", "c8102e"), (3, "Other", "e6e6dc")])

_SCHEMES = (IGBP, IGBP_SIMPLIFIED, DFC2020, EUROSAT, BIGEARTHNET_43, BIGEARTHNET_19, MULTISENGE, MULTISENGE_URBAN)
SCHEMES = {scheme.name: scheme for scheme in (*_SCHEMES, WATER_BUILT_UP)}

DROPPED = -1  # in MERGES: the class has no counterpart
IGNORE = 255  # class id of a pixel that is neither learned from nor scored

# (source, target) -> the target's class id for each class id of the source, or DROPPED.
MERGES: dict[tuple[str, str], tuple[int, ...]] = {
    # Schmitt & Wu 2021, Table 2.
    ("igbp", "igbp_simplified"): (0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 5, 7, 8, 9),
    ("igbp", "dfc2020"): (0, 0, 0, 0, 0, 1, 1, DROPPED, DROPPED, 2, 3, 4, 5, 4, DROPPED, 6, 7),
    # Sumbul et al. 2021; one line per group of CLC level 2.
    ("bigearthnet_43", "bigearthnet_19"): (
        *(0, 0),  # 11 urban fabric
        *(1, DROPPED, DROPPED, DROPPED),  # 12 industry and transport
        *(DROPPED, DROPPED, DROPPED),  # 13 mines, dumps, construction
        *(DROPPED, DROPPED),  # 14 urban green
        *(2, 2, 2),  # 21 arable
        *(3, 3, 3),  # 22 permanent crops
        *(4,),  # 23 pastures
        *(3, 5, 6, 7),  # 24 mixed agriculture
        *(8, 9, 10),  # 31 forest
        *(11, 12, 12, 13),  # 32 shrub and herbs
        *(14, DROPPED, 11, DROPPED),  # 33 open spaces
        *(15, 15),  # 41 inland wetlands
        *(16, 16, DROPPED),  # 42 coastal wetlands
        *(17, 17),  # 51 inland waters
        *(18, 18, 18),  # 52 marine waters
    ),
    ("multisenge", "multisenge_urban"): (0, 1, 2, 3, 4, *[5] * 9),
    # Syrris et al. 2020, section 3: River and SeaLake; Industrial and Residential; the remaining six.
    ("eurosat", "water_built_up"): (2, 2, 2, 2, 1, 2, 2, 1, 0, 0),
}

# Class of `water_built_up` -> the auxiliary layer that says which pixels of such a patch are of it, and the layer's values for
# them. Where the layer has another value, a pixel is Other; where it has no data (0), or a record no such layer, the patch's
# class stands. GSW's yearly classification: 0 no data, 1 not water, 2 seasonal, 3 permanent water (band waterClass of
# JRC/GSW1_4/YearlyHistory in Earth Engine's catalogue). ESM 2015 (R2019, ESM_BUILT_VHR2015CLASS at 10 m): 250 non-residential,
# 255 residential built-up, 0 no data. No page of the publisher that lists ESM's values could be read: public code that reads
# its tiles takes 255 for residential; 250 and 0 are unconfirmed, so look at the values of your tiles first.
MASKS: dict[str, tuple[str, tuple[int, ...]]] = {"Water": ("gsw", (2, 3)), "Built-up": ("esm", (250, 255))}


def merged_ids(source: str, target: str) -> tuple[int, ...]:
    """The target's class id, or DROPPED, for each class id of the source."""
    return tuple(range(len(SCHEMES[source].classes))) if source == target else MERGES[source, target]


def merge_matrix(source: str, target: str) -> np.ndarray:
    """Matrix (source classes, target classes) of 0 and 1 that sums fractions of `source` into `target`.

    The row of a dropped class is zero.
    """
    ids = merged_ids(source, target)
    return (np.array(ids)[:, None] == np.arange(len(SCHEMES[target].classes))).astype(np.float32)


def lookup(source: str, target: Scheme) -> np.ndarray:
    """Class ids of `target`, or IGNORE, for the numbers of a map of `source`; the last entry stands for all higher numbers.

    Args:
        target: A scheme that `source` is merged into, or some of its classes (`Scheme.without`).
    """
    scheme, whole = SCHEMES[source], SCHEMES[target.name]
    table = np.full(max(scheme.numbers) + 2, IGNORE, np.uint8)
    for number, merged in zip(scheme.numbers, merged_ids(source, target.name), strict=True):
        if merged != DROPPED and whole.classes[merged] in target.classes:
            table[number] = target.classes.index(whole.classes[merged])
    return table
