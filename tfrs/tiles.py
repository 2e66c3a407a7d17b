"""Where a Sentinel-2 tile lies: its UTM zone and the corner of its pixel grid, from its name alone."""

import re

from tfrs.errors import UserError

# A name is a cell of the Military Grid Reference System: UTM zone, latitude band, then column and row of a square of
# 100 km. Column letters repeat after three zones, row letters every 2,000 km, shifted by five in even zones.
_NAME = re.compile(r"(0[1-9]|[1-5]\d|60)([N-X])([A-Z])([A-V])")
_COLUMNS = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_BANDS = "NPQRSTUVWX"  # of 8 degrees each, from the equator northwards
_SQUARE, _CYCLE = 100_000, 2_000_000
# A little less than 8 degrees of latitude in metres anywhere, so that no band starts before its lowest row is reached.
_BAND = 880_000


def crs(tile: str) -> str:
    """`EPSG:326<zone>` of a tile of the northern hemisphere such as `31UGQ`.

    Raises:
        UserError: It is not such a name.
    """
    return f"EPSG:326{_parse(tile)[0]:02}"


def origin(tile: str) -> tuple[int, int]:
    """Easting and northing in metres of the upper left corner of a tile.

    That is the square's corner, moved outwards to a multiple of 60 m, the size of the coarsest pixels.

    Raises:
        UserError: It is not the name of a tile of the northern hemisphere.
    """
    zone, band, column, row = _parse(tile)
    west = (_COLUMNS[zone % 3].index(column) + 1) * _SQUARE
    south = (_ROWS.index(row) - 5 * (zone % 2 == 0)) % len(_ROWS) * _SQUARE
    lowest = _BANDS.index(band) * _BAND // _SQUARE * _SQUARE
    while south < lowest:
        south += _CYCLE
    return west // 60 * 60, -(-(south + _SQUARE) // 60) * 60


def _parse(tile: str) -> tuple[int, str, str, str]:
    match = _NAME.fullmatch(tile)
    if not match or match[2] not in _BANDS or match[4] not in _ROWS or match[3] not in _COLUMNS[int(match[1]) % 3]:
        raise UserError(f"{tile!r} is not the name of a Sentinel-2 tile of the northern hemisphere such as 31UGQ")
    return int(match[1]), match[2], match[3], match[4]
