"""The names of MultiSenGE: keys, dates and files of a patch, as its JSON file lists them."""

import datetime
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrs import archive, tiles
from tfrs.errors import BadPatch, UserError
from tfrs.labels import MULTISENGE

PATCH = re.compile(r"[0-9A-Z]{5}_\d+_\d+")
_KEY = re.compile(r"([0-9A-Z]{5})(?:_(\d{8}))?_(\d+)_(\d+)")
_FILE = re.compile(rf"{PATCH.pattern}\.json|[0-9A-Z]{{5}}_(?:(GR)|\d{{8}}_(S[12]))_\d+_\d+\.tif")
_RANGE = re.compile(r"(\d{4}-\d{2}-\d{2})\.\.(\d{4}-\d{2}-\d{2})")


@dataclass(frozen=True, eq=False)
class Patch:
    """A patch and what its JSON file says.

    Attributes:
        tile: Name of its Sentinel-2 tile.
        x: Column of its upper left pixel in the tile.
        y: Row of its upper left pixel in the tile.
        s2: Days with a Sentinel-2 image, sorted, datetime64[D].
        s1: Days with a Sentinel-1 image, sorted, datetime64[D].
        labels: Ids of the classes present, sorted.
        crs: `EPSG:<code>`.
    """

    tile: str
    x: int
    y: int
    s2: np.ndarray
    s1: np.ndarray
    labels: np.ndarray
    crs: str

    def path(self, root: Path, sensor: str, day: np.datetime64) -> Path:
        """File of `sensor` (s2 or s1) on a day."""
        date = str(day).replace("-", "")
        return Path(root) / sensor / f"{self.tile}_{date}_{sensor.upper()}_{self.x}_{self.y}.tif"

    def ground_reference(self, root: Path) -> Path:
        return Path(root) / "ground_reference" / f"{self.tile}_GR_{self.x}_{self.y}.tif"


def folder_of(file: str) -> str:
    """The folder in which a file of that name is; empty for one that is none of the data set."""
    match = _FILE.fullmatch(file)
    if not match:
        return ""
    reference, sensor = match.groups()
    return "ground_reference" if reference else sensor.lower() if sensor else "labels"


def parse_key(key: str) -> tuple[str, np.datetime64 | None]:
    """Patch and day of `31UGQ_20200805_4626_514`; no day in `31UGQ_4626_514`.

    Raises:
        BadPatch: The key is no such name.
    """
    match = _KEY.fullmatch(key)
    if not match:
        raise BadPatch(key, "not a patch name such as 31UGQ_20200805_4626_514 or 31UGQ_4626_514")
    tile, date, x, y = match.groups()
    return f"{tile}_{x}_{y}", _days(key, [date])[0] if date else None


def position(name: str) -> tuple[str, int, int]:
    """Tile, column and row of a patch name without a day."""
    tile, x, y = name.split("_")
    return tile, int(x), int(y)


def single_key(name: str, day: np.datetime64) -> str:
    """Key of a patch on one day: `<tile>_<date>_<x>_<y>`."""
    tile, x, y = name.split("_")
    return f"{tile}_{str(day).replace('-', '')}_{x}_{y}"


def read_patch(root: Path, name: str) -> Patch:
    """The patch `<tile>_<x>_<y>` from `labels/<tile>_<x>_<y>.json`.

    Raises:
        BadPatch: The file is missing, lacks an entry, or one is not of this patch.
    """
    path = Path(root) / "labels" / f"{name}.json"
    tile, x, y = position(name)
    try:
        content = json.loads(archive.read_bytes(path))
        texts = {entry: content[entry] for entry in ("corresponding_s2", "corresponding_s1", "labels", "projection")}
    except OSError as error:
        raise BadPatch(
            path, "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        ) from error
    except KeyError as error:
        raise BadPatch(path, f"has no entry {error}") from error
    except (ValueError, TypeError) as error:
        raise BadPatch(path, f"is no JSON object ({error})") from error
    for entry, text in texts.items():
        if not isinstance(text, str) or not text:
            raise BadPatch(path, f"{entry} is empty or no text")
    days = {sensor: _listed(path, texts[f"corresponding_{sensor}"], sensor, tile, x, y) for sensor in ("s2", "s1")}
    return Patch(tile, x, y, days["s2"], days["s1"], _labels(path, texts["labels"]), _crs(path, texts["projection"], tile))


def _listed(path: Path, text: str, sensor: str, tile: str, x: int, y: int) -> np.ndarray:
    before, after = f"{tile}_", f"_{sensor.upper()}_{x}_{y}.tif"
    dates = []
    for name in text.split(";"):
        date = name.removeprefix(before).removesuffix(after)
        if f"{before}{date}{after}" != name:
            raise BadPatch(path, f"corresponding_{sensor} lists {name!r}, which is not an image of this patch")
        dates.append(date)
    days = np.sort(_days(path, dates))
    if (days[1:] == days[:-1]).any():
        raise BadPatch(path, f"corresponding_{sensor} lists {days[:-1][days[1:] == days[:-1]][0]} twice")
    return days


def _days(path, dates: list[str]) -> np.ndarray:
    """Days, datetime64[D], of dates written YYYYMMDD."""
    days = []
    for date in dates:
        try:
            days.append(datetime.date.fromisoformat(date if date.isdecimal() else ""))
        except ValueError:
            raise BadPatch(path, f"{date!r} is no date YYYYMMDD") from None
    return np.array(days, "datetime64[D]")


def _labels(path: Path, text: str) -> np.ndarray:
    numbers = text.split(";")
    if unknown := sorted(set(numbers) - set(map(str, MULTISENGE.numbers))):
        raise BadPatch(path, f"labels has {', '.join(map(repr, unknown))}; the classes are 1..14")
    return np.array(sorted(MULTISENGE.numbers.index(int(number)) for number in set(numbers)))


def _crs(path: Path, text: str, tile: str) -> str:
    codes = re.findall(r'AUTHORITY\["EPSG","(\d+)"\]', text)
    crs = f"EPSG:{codes[-1]}" if codes else text
    if crs != tiles.crs(tile):
        raise BadPatch(path, f"projection is {crs}, but tile {tile} lies in {tiles.crs(tile)}")
    return crs


def check_dates(spec: str) -> None:
    """Refuse a choice of dates that `select` does not know.

    Raises:
        UserError: It is neither a word nor a range of days in order.
    """
    if spec in ("all", "monthly", "first"):
        return
    match = _RANGE.fullmatch(spec)
    try:
        first, last = np.array(match.groups() if match else [], "datetime64[D]")
    except ValueError:
        raise UserError(f"dates {spec!r}: give all, monthly, first, or a range such as 2020-07-01..2020-09-30") from None
    if last < first:
        raise UserError(f"dates {spec!r}: the range ends before it begins")


def select(days: np.ndarray, spec: str) -> np.ndarray:
    """The days (sorted, datetime64[D]) that a choice of dates means.

    Args:
        spec: `all`, `first`, `monthly` (the first of each month) or `YYYY-MM-DD..YYYY-MM-DD` (both ends included).
    """
    if spec == "all":
        return days
    if spec == "first":
        return days[:1]
    if spec == "monthly":
        return days[np.unique(days.astype("datetime64[M]"), return_index=True)[1]]
    first, last = np.array(spec.split(".."), "datetime64[D]")
    return days[(first <= days) & (days <= last)]


def nearest(days: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each wanted day the nearest of `days` (sorted); of two equally near, the earlier."""
    return days[np.abs(wanted[..., None] - days).argmin(-1)]
