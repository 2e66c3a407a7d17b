"""Recipes: which patches of which records become one data set, as a TOML file says."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from tfrs.errors import UserError, unknown
from tfrs.labels import SCHEMES, Scheme
from tfrs.resampling import METHODS
from tfrs.sensors import Sensor, sentinel1, sentinel2

SENSORS = {"s2": lambda bands: sentinel2(bands), "s1": lambda bands: sentinel1()}


@dataclass(frozen=True)
class Take:
    """Patches of a set of records.

    Attributes:
        records: Folder of the records.
        field: Label or labels of theirs that `classes` are looked for in.
        classes: A patch that has one of these is meant; all patches where empty.
        into: Class of the new label; empty for the class of the same name.
        count: How many, drawn at random; 0 for all.
    """

    records: str
    field: str = "label"
    classes: tuple[str, ...] = ()
    into: str = ""
    count: int = 0

    def __str__(self) -> str:
        return f"{' or '.join(self.classes) or 'all'} of {self.records}{f' -> {self.into}' if self.into else ''}"


@dataclass(frozen=True)
class Recipe:
    """The takes, in order, and what all of their patches are brought to."""

    scheme: str
    size: int
    bands: dict[str, tuple[str, ...]]
    take: tuple[Take, ...]
    resampling: str = "bilinear"
    seed: int = 0
    mix_levels: bool = False

    @property
    def legend(self) -> Scheme:
        return SCHEMES[self.scheme]

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        return tuple(SENSORS[name](bands) for name, bands in self.bands.items())


def read(path: Path) -> str:
    """Text of a recipe.

    Raises:
        UserError: There is no such file.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError(f"{path}: {reason}; --recipe wants a TOML file such as tfrs/datasets/fusion_satimnet.toml") from error


def parse(text: str, name: str) -> Recipe:
    """The recipe that a TOML text means.

    Args:
        name: Its file, for errors.

    Raises:
        UserError: It is no recipe.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name}: not TOML ({error})") from error
    takes = content.pop("take", [])
    if not takes or not isinstance(takes, list):
        raise UserError(f"{name}: nothing to take; add a [[take]] with records = ... for each set of records")
    recipe = _made(
        Recipe, {**content, "take": tuple(_made(Take, take, f"{name}, take {i}") for i, take in enumerate(takes, 1))}, name
    )
    if recipe.scheme not in SCHEMES:
        raise unknown(f"scheme in {name}", recipe.scheme, SCHEMES)
    if recipe.resampling not in METHODS:
        raise unknown(f"resampling in {name}", recipe.resampling, METHODS)
    if recipe.size < 1 or recipe.seed < 0:
        raise UserError(f"{name}: size is {recipe.size} and seed {recipe.seed}; give a number of pixels, and a seed from 0")
    if not recipe.bands:
        raise UserError(f'{name}: no bands; add [bands] with e.g. s2 = ["B02", "B03", "B04", "B08"]')
    for sensor, bands in recipe.bands.items():
        if sensor not in SENSORS:
            raise unknown(f"sensor in {name}", sensor, SENSORS)
        known = SENSORS[sensor](bands).bands if sensor == "s1" else sentinel2().bands
        for band in bands:
            if band not in known:
                raise unknown(f"band of {sensor} in {name}", band, known)
        if not bands or len(set(bands)) < len(bands) or (sensor == "s1" and bands != known):
            raise UserError(f"{name}: bands of {sensor} are {', '.join(bands) or 'none'}; give each once ({', '.join(known)})")
    for take in recipe.take:
        if take.into and take.into not in recipe.legend.classes:
            raise unknown(f"class of {recipe.scheme} in {name}", take.into, recipe.legend.classes)
        if take.count < 0:
            raise UserError(f"{name}: {take}: count is {take.count}; give the number of patches, or leave it out for all")
    return recipe


def _made(kind: type, content: dict, name: str):
    """A dataclass from a table of TOML, whose types are checked."""
    known = {field.name: field for field in fields(kind)}
    for key in content:
        if key not in known:
            raise unknown(f"entry in {name}", key, known)
    for field in known.values():
        if field.name not in content and field.default is field.default_factory:  # both are MISSING
            raise UserError(f"{name}: no {field.name}; see tfrs/datasets/fusion_satimnet.toml for an example")
    values = {key: _frozen(value) for key, value in content.items()}
    for key, value in values.items():
        wanted = {"count": int, "size": int, "seed": int, "mix_levels": bool, "classes": tuple, "bands": dict, "take": tuple}
        if type(value) is not wanted.get(key, str):
            raise UserError(f"{name}: {key} = {content[key]!r} is no {wanted.get(key, str).__name__.replace('tuple', 'list')}")
    return kind(**values)


def _frozen(value):
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value
