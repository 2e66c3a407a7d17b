"""Indices by name: the bands each needs, its formula, and how the texture index looks at its surroundings."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tfrs.errors import UserError

REFLECTANCE = 10_000  # digital numbers of Sentinel-2 per unit of reflectance


@dataclass(frozen=True)
class Index:
    """Plain arithmetic on the reflectances of `bands`, in that order, whatever array holds them.

    With `texture` the index is the entropy of the co-occurrence of the formula's values around each pixel.
    """

    bands: tuple[str, ...]
    formula: Callable
    texture: bool = False


def _contrast(a, b):
    return (a - b) / (a + b)


INDICES = {
    "NDVI": Index(("B08", "B04"), _contrast),  # Rouse et al. 1974
    "NDBI": Index(("B11", "B08"), _contrast),  # Zha et al. 2003
    "NDWI": Index(("B03", "B08"), _contrast),  # McFeeters 1996
    "MNDWI": Index(("B03", "B11"), _contrast),  # Xu 2006
    "SAVI": Index(("B08", "B04"), lambda nir, red: 1.5 * (nir - red) / (nir + red + 0.5)),  # Huete 1988, L = 0.5
    "EVI": Index(  # Huete et al. 2002
        ("B08", "B04", "B02"), lambda nir, red, blue: 2.5 * (nir - red) / (nir + 6.0 * red - 7.5 * blue + 1.0)
    ),
    "BSI": Index(("B11", "B04", "B08", "B02"), lambda swir, red, nir, blue: _contrast(swir + red, nir + blue)),  # Rikimaru 2002
    "eNDVI": Index(
        ("B08", "B04"), _contrast, texture=True
    ),  # of NDVI; Wenger et al. 2022, section 4, after Haralick et al. 1973
}


@dataclass(frozen=True)
class Entropy:
    """Settings of the grey-level co-occurrence matrix (Haralick et al. 1973) that texture indices are computed with.

    Attributes:
        levels: Number of grey levels, equal bins of -1..1; cost grows with its square.
        window: Side of the square around each pixel, odd, in pixels.
        offsets: (row, column) from one pixel of a pair to the other; the default is Haralick's four directions.

    Raises:
        UserError: A setting is out of range.
    """

    levels: int = 8
    window: int = 7
    offsets: tuple[tuple[int, int], ...] = ((0, 1), (1, 1), (1, 0), (1, -1))

    def __post_init__(self):
        if not 2 <= self.levels <= 16:
            raise UserError(f"--entropy_levels={self.levels} is out of range; give 2 to 16")
        if not 3 <= self.window <= 31 or self.window % 2 == 0:
            raise UserError(f"--entropy_window={self.window} must be odd, from 3 to 31")
        for row, column in self.offsets:
            if (row, column) == (0, 0) or max(abs(row), abs(column)) >= self.window:
                raise UserError(
                    f"--entropy_offsets: {row}:{column} pairs no two pixels of a window of {self.window}x{self.window}"
                )
        if not self.offsets:
            raise UserError("--entropy_offsets is empty; give at least one offset as row:column, e.g. 0:1")


HARALICK = Entropy()


def parse_offsets(texts: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Offsets from texts such as `1:-1`.

    Raises:
        UserError: A text is not of this form.
    """
    try:
        return tuple((int(row), int(column)) for row, column in (text.split(":") for text in texts))
    except ValueError as error:
        raise UserError(f"--entropy_offsets={','.join(texts)}: give row:column for each, e.g. 0:1,1:1,1:0,1:-1") from error


def needed(channels: Iterable[str]) -> tuple[str, ...]:
    """The bands that channels are made of, each once: those that are channels themselves first, in their order."""
    channels = tuple(channels)
    bands = [name for name in channels if name not in INDICES]
    bands += [band for name in channels if name in INDICES for band in INDICES[name].bands]
    return tuple(dict.fromkeys(bands))
