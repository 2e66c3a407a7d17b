"""From metres of a UTM zone to longitude and latitude, without PROJ: training imports no rasterio."""

import re

import numpy as np

from tfrs.errors import UserError

_CODE = re.compile(r"EPSG:32([67])(0[1-9]|[1-5]\d|60)")
_FLATTENING = 1 / 298.257223563  # WGS 84
_N = _FLATTENING / (2 - _FLATTENING)
_RADIUS = 6_378_137 / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)  # of the circle as long as a meridian
_SCALE, _EASTING, _SOUTHERN = 0.9996, 500_000, 10_000_000
_BETA = (_N / 2 - 2 * _N**2 / 3 + 37 * _N**3 / 96, _N**2 / 48 + _N**3 / 15, 17 * _N**3 / 480)
_DELTA = (2 * _N - 2 * _N**2 / 3 - 2 * _N**3, 7 * _N**2 / 3 - 8 * _N**3 / 5, 56 * _N**3 / 15)


def degrees(crs: str, easting: np.ndarray, northing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude in degrees (WGS 84) of places of a UTM zone in metres.

    Krüger 1912, to the third order of the flattening: exact to millimetres within a zone.

    Raises:
        UserError: `crs` is neither `EPSG:326<zone>` nor `EPSG:327<zone>`.
    """
    match = _CODE.fullmatch(crs)
    if not match:
        raise UserError(f"{crs!r} is no UTM zone (EPSG:32601 ... 32760), so its metres cannot be turned into degrees")
    xi = (northing - _SOUTHERN * (match[1] == "7")) / (_SCALE * _RADIUS)
    eta = (easting - _EASTING) / (_SCALE * _RADIUS)
    turns = [(beta, 2 * k) for k, beta in enumerate(_BETA, 1)]
    xi, eta = (
        xi - sum(beta * np.sin(k * xi) * np.cosh(k * eta) for beta, k in turns),
        eta - sum(beta * np.cos(k * xi) * np.sinh(k * eta) for beta, k in turns),
    )
    conformal = np.arcsin(np.sin(xi) / np.cosh(eta))
    latitude = conformal + sum(delta * np.sin(2 * k * conformal) for k, delta in enumerate(_DELTA, 1))
    longitude = 6 * int(match[2]) - 183 + np.degrees(np.arctan2(np.sinh(eta), np.cos(xi)))
    return longitude, np.degrees(latitude)
