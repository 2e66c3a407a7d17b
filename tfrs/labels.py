"""Class schemes: ordered names, numbers and colours, and the maps between schemes."""

from dataclasses import dataclass

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

SCHEMES = {scheme.name: scheme for scheme in (IGBP, IGBP_SIMPLIFIED, EUROSAT, MULTISENGE, MULTISENGE_URBAN)}

# (source, target) -> the target's class id for each class id of the source. Schmitt & Wu 2021, Table 2; Wenger et al. 2022.
MERGES: dict[tuple[str, str], tuple[int, ...]] = {
    ("igbp", "igbp_simplified"): (0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 5, 7, 8, 9),
    ("multisenge", "multisenge_urban"): (0, 1, 2, 3, 4, *[5] * 9),
}


def merge_matrix(source: str, target: str) -> np.ndarray:
    """Matrix (source classes, target classes) of 0 and 1 that sums fractions of `source` into `target`."""
    ids = range(len(SCHEMES[source].classes)) if source == target else MERGES[source, target]
    matrix = np.zeros((len(SCHEMES[source].classes), len(SCHEMES[target].classes)), np.float32)
    matrix[np.arange(len(matrix)), ids] = 1
    return matrix
