"""Which records a run takes, by conditions on the columns of the record index; no record is written anew."""

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tfrs import utm
from tfrs.errors import UserError, unknown
from tfrs.records import Records

# What the keys of a data set hold, by its name: a pattern whose groups, joined by "_", are the value.
KEYS = {
    "sen12ms": {"scene": r"(\w+)_s2_(\d+)_p\d+"},  # ROIs1158_spring_s2_1_p30 -> ROIs1158_spring_1
    "bigearthnet": {"scene": r"(\w+)_\d+_\d+"},  # S2A_MSIL2A_20170613T101031_87_48 -> S2A_MSIL2A_20170613T101031
    "bigearthnet_v2": {  # S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57 -> the name up to the tile; 33UUP
        "scene": r"(\w+)_\d+_\d+",
        "tile": r"\w+_T(\w{5})_\d+_\d+",
    },
    "multisenge": {  # 31UGQ_20200805_4626_514 -> 31UGQ; 31UGQ_4626_514
        "tile": r"([^_]+)_\w+",
        "patch": r"([^_]+)_(?:\d{8}_)?(\d+)_(\d+)",
    },
}
AREA = "area"
HELP = (
    "conditions on the records, all of which must hold: COLUMN=VALUE|VALUE... or COLUMN!=...; e.g. label=River|Forest, "
    "labels=Water, fractions=Croplands>0.5, key=*_p3?, scene=ROIs1158_spring_*, tile=31UGQ, date=2017-06..2017-08, "
    "area=6.10:49.06:6.25:49.17 (west:south:east:north in degrees; EPSG:32631: before them for metres of that zone). "
    "A value with a comma is quoted: '\"labels=Groves, Hedges\"'"
)
_CONDITION = re.compile(r"\s*(\w+)\s*(!?=)(.+)")
_SHARE = re.compile(r"(.+?)\s*(>=|<=|>|<)\s*(\d*\.?\d+(?:e-?\d+)?)")
_COMPARE = {">=": np.greater_equal, "<=": np.less_equal, ">": np.greater, "<": np.less}
_DAY = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?")

# From an index to the mask of its records that a value of a condition names.
Test = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Condition:
    """`column=value|value`, or `!=` for those for which it does not hold."""

    text: str
    negated: bool
    tests: tuple[Test, ...]

    def holds(self, table: np.ndarray) -> np.ndarray:
        return np.any([test(table) for test in self.tests], axis=0) != self.negated


def where(records: Records, conditions: Iterable[str]) -> Records:
    """The records for which all conditions hold, in the splits they are in.

    Args:
        conditions: As `HELP` says. The area is that of patch centres; a series has the dates of all its images.

    Raises:
        UserError: A condition has no such form, names an unknown column or class, or no record is left.
    """
    parsed = [_parse(records, text) for text in conditions]
    if not parsed:
        return records
    held = {split: [c.holds(records.index(split)) for c in parsed] for split in records.splits}
    numbers = {split: np.flatnonzero(np.all(masks, axis=0)) for split, masks in held.items()}
    if not any(map(len, numbers.values())):
        alone = ", ".join(f"{c.text}: {sum(int(m[i].sum()) for m in held.values())}" for i, c in enumerate(parsed))
        raise UserError(f"{records.directory}: no record satisfies --where; records that satisfy each condition alone: {alone}")
    said = "; ".join([*filter(None, [records.selection]), *(c.text for c in parsed)])
    return records.with_splits({split: {split: found} for split, found in numbers.items()}, said)


def columns(records: Records) -> dict[str, Callable[[str], Test]]:
    """The columns that conditions may name, and what makes a test of a value of each."""
    kinds = {
        "text": lambda name: _date(name) if name.endswith("date") else _text(name),
        "label": lambda name: _label(records, name),
        "labels": lambda name: _labels(records, name),
        "fractions": lambda name: _fractions(records, name),
    }
    fields = records.schema.fields
    found = {name: kinds[field.kind](name) for name, field in fields.items() if field.kind in kinds}
    found |= {name: _of_key(records.name, name) for name in KEYS.get(records.name, ())}
    if {"crs", "transform"} <= fields.keys():
        found[AREA] = _area(max(field.shape[-1] for field in fields.values() if field.kind == "raster"))
    return found


def patches(records: Records, keys: np.ndarray) -> np.ndarray:
    """Names of the patches (N,) that keys (N,) stand for: the dates of one patch are no patches of their own."""
    return _parts(KEYS[records.name]["patch"], keys) if "patch" in KEYS.get(records.name, ()) else keys


def _parts(pattern: str, keys: np.ndarray) -> np.ndarray:
    """The groups of a pattern in keys (N,), joined; empty where it does not match."""
    matches = map(re.compile(pattern.encode()).fullmatch, keys.tolist())
    return np.array([b"_".join(match.groups()) if match else b"" for match in matches])


def _parse(records: Records, text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if not match:
        raise UserError(f"--where has {text!r}; give COLUMN=VALUE, e.g. {next(iter(_examples(records)))}")
    known = columns(records)
    if match[1] not in known:
        raise unknown(f"column of {records.directory} in --where", match[1], known)
    return Condition(text.strip(), match[2] == "!=", tuple(known[match[1]](value.strip()) for value in match[3].split("|")))


def _examples(records: Records) -> Iterable[str]:
    for name, field in records.schema.fields.items():
        if field.kind in ("label", "labels"):
            yield f"{name}={records.schema.scheme(name).classes[0]}"
    yield "key=*_1"


def _matching(texts: np.ndarray, pattern: str) -> np.ndarray:
    match = re.compile(fnmatch.translate(pattern).encode()).match
    return np.fromiter((match(text) is not None for text in texts.tolist()), bool, len(texts))


def _text(name: str) -> Callable[[str], Test]:
    return lambda pattern: lambda table: _matching(table[name], pattern)


def _of_key(dataset: str, name: str) -> Callable[[str], Test]:
    return lambda pattern: lambda table: _matching(_parts(KEYS[dataset][name], table["key"]), pattern)


def _class(records: Records, name: str, value: str) -> int:
    classes = records.schema.scheme(name).classes
    if value not in classes:
        raise unknown(f"class of {name}", value, classes)
    return classes.index(value)


def _label(records: Records, name: str) -> Callable[[str], Test]:
    def test(value: str) -> Test:
        number = _class(records, name, value)
        return lambda table: table[name] == number

    return test


def _labels(records: Records, name: str) -> Callable[[str], Test]:
    def test(value: str) -> Test:
        number = _class(records, name, value)
        return lambda table: table[name][:, number] > 0

    return test


def _fractions(records: Records, name: str) -> Callable[[str], Test]:
    def test(value: str) -> Test:
        match = _SHARE.fullmatch(value)
        if not match and (sign := re.search("[<>]=?", value)):
            raise UserError(f"--where has {name}={value}; after {sign[0]} stands a share from 0 to 1, e.g. {sign[0]}0.5")
        label, sign, share = match.groups() if match else (value, ">", "0")
        number = _class(records, name, label)
        return lambda table: _COMPARE[sign](table[name][:, number], np.float32(share))

    return test


def _date(name: str) -> Callable[[str], Test]:
    def test(value: str) -> Test:
        first, dots, last = value.partition("..")
        last = last if dots else first
        if not (first or last) or any(day and not _DAY.fullmatch(day) for day in (first, last)):
            raise UserError(f"--where has {name}={value}; give 2017, 2017-06, 2017-06-13, or FROM..TO of such")
        if last and first[: len(last)] > last[: len(first)]:
            raise UserError(f"--where has {name}={value}, which ends before it begins")
        low, high = first.encode(), last.encode()

        def within(day: bytes) -> bool:  # a month or year compares as far as it goes, so it is in as a whole
            return day[: len(low)] >= low and (not high or day[: len(high)] <= high)

        return lambda table: np.fromiter((any(map(within, d.split(b","))) for d in table[name].tolist()), bool, len(table))

    return test


def _area(size: int) -> Callable[[str], Test]:
    """Tests of patches of `size` pixels at the scale of their transform."""

    def test(value: str) -> Test:
        crs, *box = [""] * (value.count(":") == 3) + value.upper().rsplit(":", 4)  # epsg: will do
        try:
            west, south, east, north = map(float, box)
        except ValueError as error:
            raise UserError(f"--where has area={value}; give WEST:SOUTH:EAST:NORTH in degrees, or EPSG:... before") from error
        if not (west < east and south < north):
            raise UserError(
                f"--where has area={value}, which is empty; give WEST:SOUTH:EAST:NORTH (across 180 degrees two, with |)"
            )

        def inside(table: np.ndarray) -> np.ndarray:
            a, b, c, d, e, f = table["transform"].T
            x, y = a * size / 2 + b * size / 2 + c, d * size / 2 + e * size / 2 + f
            found = np.zeros(len(table), bool)
            for zone in [crs.encode()] if crs else np.unique(table["crs"]):
                here = np.flatnonzero(table["crs"] == zone)
                places = (x[here], y[here]) if crs else utm.degrees(zone.decode(), x[here], y[here])
                found[here] = (west <= places[0]) & (places[0] <= east) & (south <= places[1]) & (places[1] <= north)
            return found

        return inside

    return test
