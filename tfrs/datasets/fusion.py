"""Records of several data sets as one, by a recipe."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tfrs import recipe
from tfrs.datasets.base import GEOREFERENCE, Dataset
from tfrs.errors import BadPatch, UserError, unknown
from tfrs.geotiff import Raster
from tfrs.recipe import Recipe, Take
from tfrs.records import Records
from tfrs.resampling import resample
from tfrs.schema import Field, Sample, Schema
from tfrs.sensors import Sensor

SATIMNET = Path(__file__).with_name("fusion_satimnet.toml")
LEVELS = {"sen12ms": "L1C", "eurosat": "L1C", "bigearthnet": "L2A", "bigearthnet_v2": "L2A", "multisenge": "L2A"}


@dataclass(frozen=True)
class Fusion(Dataset):
    """Patches of several sets of records, with one label, one size and the same bands; by default SatImNet's fusion.

    - Extent: with the default recipe (Syrris et al. 2020, section 3), EuroSAT's 27,000 patches and 5,000 of BigEarthNet v1
      whose CORINE classes stand for SeaLake, Residential, AnnualCrop and Forest; 64x64 pixels, BigEarthNet's 120x120 resampled
      by GDAL's bilinear method, which averages when it makes an image smaller. EuroSAT is L1C, BigEarthNet L2A.
    - Labels: `label`, of the recipe's scheme; `source`, the data set that a patch is of.
    - Splits: those of the sources.
    - Input: the folder that the recipe's sets of records lie in, such as `records`.
    - Licence: those of the sources.

    Attributes:
        recipe: File of the recipe; empty: SatImNet's.
        content: Its text, once it was read.
    """

    name = "fusion"

    recipe: str = ""
    content: str = ""

    def at(self, root: Path) -> "Fusion":
        return replace(self, content=self.content or recipe.read(self.recipe or SATIMNET))

    @functools.cached_property
    def rules(self) -> Recipe:
        return recipe.parse(self.at(Path()).content, self.file)

    @property
    def file(self) -> str:
        return self.recipe or SATIMNET.name

    @property
    def layout(self) -> str:
        names = dict.fromkeys(take.records for take in self.rules.take)
        return f"records of {', '.join(names)}, in folders of these names as python -m tfrecords_builder writes them"

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        return self.rules.sensors

    @functools.cached_property
    def schema(self) -> Schema:
        size = (self.rules.size, self.rules.size)
        rasters = {sensor.name: Field("raster", sensor.dtype, (len(sensor.bands), *size)) for sensor in self.sensors}
        label = Field("label", scheme=self.rules.scheme)
        fields = {"key": Field("text"), "source": Field("text"), **GEOREFERENCE, "label": label, **rasters}
        return Schema(fields, {self.rules.scheme: self.rules.legend})

    def index(self, root: Path, split: str) -> list[str]:
        return sorted(key for key, place in self.chosen(root).places.items() if place[1] == split)

    def report(self, root: Path) -> list[str]:
        return self.chosen(root).report

    def simulated(self, root: Path) -> bool:
        sources = {take.records for take in self.rules.take}
        return any(_records(Path(root), name).manifest["spec"].get("simulated") for name in sources)

    def chosen(self, root: Path) -> "Chosen":
        return _choose(self, Path(root))

    def read(self, root: Path, key: str) -> Sample:
        places = self.chosen(root).places
        if key not in places:
            raise BadPatch(key, "was not taken by the recipe")
        name, split, number, label = places[key]
        records = _records(Path(root), name)
        sample = records.sample(split, number)
        fused: Sample = {"key": key, "source": records.name, "label": label, "crs": sample["crs"]}
        for sensor in self.sensors:
            bands = sample[sensor.name][list(records.sensors[sensor.name].index(sensor.bands))]
            raster = Raster(bands.astype(sensor.dtype, copy=False), sample["crs"], tuple(sample["transform"]), sensor.nodata)
            if raster.data.shape[1:] != (self.rules.size, self.rules.size):
                raster = resample(raster, (self.rules.size, self.rules.size), self.rules.resampling)
            fused |= {sensor.name: raster.data, "transform": np.array(raster.transform)}
        return fused

    def synthesize(self, root: Path, n: int, seed: int) -> None:
        from tfrs import synthetic_fusion

        synthetic_fusion.write(root, n, seed)


@dataclass(frozen=True)
class Chosen:
    """What a recipe takes.

    Attributes:
        places: Key -> name of the records in the recipe, split, number of the record, and its new class id.
        report: A line per take, that says what was there.
    """

    places: dict[str, tuple[str, str, int, int]]
    report: list[str]


@functools.lru_cache(maxsize=8)
def _records(root: Path, name: str) -> Records:
    return Records(root / name)


@functools.lru_cache(maxsize=4)
def _choose(dataset: Fusion, root: Path) -> Chosen:
    rules = dataset.rules
    names = list(dict.fromkeys(take.records for take in rules.take))
    if not root.is_dir() or not all((root / name).is_dir() for name in names):
        raise dataset.not_found(root)
    for name in names:
        _check(dataset, _records(root, name))
    levels = {name: LEVELS[origin] for name in names if (origin := _records(root, name).name) in LEVELS}
    if len(set(levels.values())) > 1 and not rules.mix_levels:
        listed = ", ".join(f"{name} {level}" for name, level in levels.items())
        raise UserError(f"{dataset.file}: mixes processing levels ({listed}); if that is meant, add mix_levels = true to it")
    places, report = {}, []
    for number, take in enumerate(rules.take):
        found = candidates(rules, take, _records(root, take.records), dataset.file)
        free = sorted(key for key in found if key not in places or places[key][0] != take.records)
        if doubled := [key for key in free if key in places]:
            other = places[doubled[0]][0]
            raise UserError(f"{take.records} and {other} both have a patch {doubled[0]}; keys must differ to be told apart")
        drawn = np.random.default_rng([rules.seed, number]).permutation(len(free))[: take.count or None]
        places |= {free[i]: (take.records, *found[free[i]]) for i in drawn}
        short = f", {take.count - len(drawn)} short of {take.count}" if len(drawn) < take.count else ""
        report.append(f"took {len(drawn)} of {len(free)} patches: {take}{short}")
    return Chosen(places, report)


def _check(dataset: Fusion, records: Records) -> None:
    """See that records have what every patch is to have."""
    where = dataset.file
    for sensor in dataset.sensors:
        there = records.sensors.get(sensor.name)
        missing = [band for band in sensor.bands if there is None or band not in there.bands]
        if missing:
            raise UserError(
                f"{records.directory} has no {sensor.name} {', '.join(missing)}, which {where} asks for; "
                f"take {'them' if len(missing) > 1 else 'it'} out of its bands"
            )
        if there.dtype != sensor.dtype or records.schema.fields[sensor.name].series:
            kind = "a series" if records.schema.fields[sensor.name].series else there.dtype
            raise UserError(f"{records.directory}: {sensor.name} is {kind}; a fusion takes single images of {sensor.dtype}")
    if not GEOREFERENCE.keys() <= records.schema.fields.keys():
        raise UserError(f"{records.directory} has no georeference, which the records of a fusion keep")


def candidates(rules: Recipe, take: Take, records: Records, where: str) -> dict[str, tuple[str, int, int]]:
    """Key -> split, number and new class id of every record that a take means."""
    field = records.schema.fields.get(take.field)
    if field is None or field.kind not in ("label", "labels"):
        has = [name for name, spec in records.schema.fields.items() if spec.kind in ("label", "labels")]
        raise unknown(f"field of {records.directory} in {where}", take.field, has)
    classes = records.schema.scheme(take.field).classes
    for name in take.classes:
        if name not in classes:
            raise unknown(f"class of {take.records} in {where}", name, classes)
    wanted = [classes.index(name) for name in take.classes or classes]
    if not take.into and field.kind != "label":
        raise UserError(f"{where}: {take}: a patch may have several classes of {take.field}; add into = the one it becomes")
    if not take.into:
        for i in wanted:
            if classes[i] not in rules.legend.classes:
                raise unknown(f"class of {rules.scheme} in {where}", classes[i], rules.legend.classes)
    found = {}
    for split in records.manifest["splits"]:
        table = records.index(split)
        values = table[take.field]
        meant = np.isin(values, wanted) if field.kind == "label" else values[:, wanted].any(axis=1)
        for number in np.flatnonzero(meant).tolist():
            into = take.into or classes[values[number]]
            found[table["key"][number].decode()] = (split, number, rules.legend.classes.index(into))
    return found
