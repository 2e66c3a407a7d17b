"""MultiSenGE: Sentinel-1 and Sentinel-2 time series with a land-use map of eastern France."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrs import archive, geotiff
from tfrs.datasets.base import GEOREFERENCE, Dataset, check, check_same_grid
from tfrs.datasets.multisenge_names import (
    PATCH,
    Patch,
    check_dates,
    folder_of,
    nearest,
    parse_key,
    read_patch,
    select,
    single_key,
)
from tfrs.datasets.multisenge_splits import assign, corner
from tfrs.errors import BadPatch, UserError, unknown
from tfrs.geotiff import Raster
from tfrs.labels import MULTISENGE
from tfrs.schema import Field, Sample, Schema
from tfrs.sensors import S2_SURFACE, sentinel1, sentinel2

SIZE = 256
# Stated nowhere, inferred from the authors' statistics; `show` prints means per band to hold it against.
FILE_BANDS = S2_SURFACE
THEIA_NODATA = -10_000
# Form -> what stands before the shape of an image: a record has one of each sensor, or a series of any length.
FORMS = {"single": (), "series": (-1,)}
SPLITTINGS = ("random", "spatial")


@functools.lru_cache(maxsize=2)
def catalogue(root: Path) -> dict[str, np.ndarray | None]:
    """Sentinel-2 days of every patch in a folder, sorted by name; None where the patch's JSON file is bad."""
    names = sorted(name.removesuffix(".json") for name in archive.names(root / "labels"))
    return {name: _days(root, name) for name in names if PATCH.fullmatch(name)}


def _days(root: Path, name: str) -> np.ndarray | None:
    try:
        return read_patch(root, name).s2
    except BadPatch:
        return None


@dataclass(frozen=True)
class MultiSenGE(Dataset):
    """MultiSenGE (Wenger et al. 2022).

    - Extent: 8,157 patches of 256x256 pixels at 10 m in 14 Sentinel-2 tiles of the Grand-Est region, France, all of 2020.
    - Sentinel-2: Theia L2A, 2 to 23 days per patch, 10 bands, digital numbers; the files are uint16 or int16, the records
      uint16. Sentinel-1: GRD, 89 to 181 days per patch, VV and VH in dB, float32.
    - Ground reference: OCSGE2-GEOGRANDEST 2019/2020 and BD TOPO roads, 14 classes (numbers 1..14), and `fractions` of it.
    - Labels: `labels`, the classes present, from the patch's JSON file.
    - Records: one per patch and Sentinel-2 day with the Sentinel-1 image nearest in time; or one per patch with the series
      of both, whose dates are separated by commas.
    - Splits: none published. All days of a patch are in one split; a tenth of the patches, or those in the test area, is
      test, a fifth of the rest val.
    - Licence: see https://doi.org/10.5281/zenodo.6375466; the ground reference derives from data under Etalab licence 2.0.

    Attributes:
        form: `single`: one record per patch and Sentinel-2 day; `series`: one per patch, `s2` (T, 10, H, W) and for each
            of its days the nearest of `s1` (T, 2, H, W).
        dates: Which Sentinel-2 days: `all`, `first`, `monthly` (the first of each month) or YYYY-MM-DD..YYYY-MM-DD.
        max_days: A record is bad if no Sentinel-1 image is within so many days.
        split: `random` by patch, or `spatial`: in blocks, and neighbours of test and val patches are in no split.
        tiles: Only these tiles; all where empty.
        test_area: minx, miny, maxx, maxy in longitude and latitude, or in UTM: the patches that it touches are test.
    """

    name = "multisenge"
    sensors = (sentinel2(FILE_BANDS), sentinel1())
    layout = "labels/<tile>_<x>_<y>.json, beside s2, s1 and ground_reference, e.g. labels/31UGQ_4626_514.json"
    folders = ("labels", "ground_reference", "s2", "s1")
    series_length = 9  # 72,033 images of 8,157 patches

    form: str = "single"
    dates: str = "all"
    max_days: int = 2
    split: str = "random"
    tiles: tuple[str, ...] = ()
    test_area: tuple[float, ...] = ()

    def __post_init__(self):
        if self.form not in FORMS:
            raise unknown("form", self.form, FORMS)
        if self.split not in SPLITTINGS:
            raise unknown("split", self.split, SPLITTINGS)
        check_dates(self.dates)
        if self.test_area and (len(self.test_area) != 4 or np.less_equal(self.test_area[2:], self.test_area[:2]).any()):
            raise UserError(f"test area {self.test_area}: give minx,miny,maxx,maxy, e.g. 6.1,49.06,6.25,49.17")

    @property
    def schema(self) -> Schema:
        form = FORMS[self.form]
        return Schema(
            {
                "key": Field("text"),
                **GEOREFERENCE,
                "date": Field("text"),
                "s1_date": Field("text"),
                "labels": Field("labels", scheme="multisenge"),
                "fractions": Field("fractions", scheme="multisenge"),
                "s2": Field("raster", "uint16", (*form, 10, SIZE, SIZE)),
                "s1": Field("raster", "float32", (*form, 2, SIZE, SIZE)),
                "ground_reference": Field("raster", "uint8", (1, SIZE, SIZE), "multisenge"),
            },
            {"multisenge": MULTISENGE},
        )

    def member(self, name: str) -> str:
        # Whatever folders an archive begins with: the file's own name says it all.
        file = name.rpartition("/")[2]
        return f"{folder}/{file}" if (folder := folder_of(file)) else ""

    def index(self, root: Path, split: str) -> list[str]:
        days = catalogue(Path(root))
        keys = []
        for name, assigned in _splits(self, Path(root)).items():
            if assigned != split:
                continue
            chosen = None if days[name] is None else select(days[name], self.dates)
            if chosen is None or (self.form == "series" and len(chosen)):
                keys.append(name)  # where the days cannot be read, reading the patch says what is wrong
            elif self.form == "single":
                keys += [single_key(name, day) for day in chosen]
        return sorted(keys)

    def patch(self, key: str) -> str:
        return parse_key(key)[0]

    def left_out(self, root: Path) -> dict[str, int]:
        return {"patches beside one of another split": list(_splits(self, Path(root)).values()).count("")}

    def read(self, root: Path, key: str) -> Sample:
        name, day = parse_key(key)
        patch = read_patch(root, name)
        if (day is None) != (self.form == "series"):
            raise BadPatch(key, f"is no key of form {self.form}; this patch has {', '.join(map(str, patch.s2))}")
        days = select(patch.s2, self.dates) if day is None else np.array([day])
        s1_days = nearest(patch.s1, days)
        path = patch.ground_reference(root)
        reference = geotiff.read(path)
        _check_crs(path, reference, patch)
        if self.test_area or self.split == "spatial":
            _check_place(path, reference, name)
        pairs = [self._pair(root, patch, *pair, reference) for pair in zip(days, s1_days, strict=True)]
        s2, s1 = pairs[0] if self.form == "single" else map(np.stack, zip(*pairs, strict=True))
        return {
            "key": key,
            "crs": reference.crs,
            "transform": np.array(reference.transform),
            "date": ",".join(map(str, days)),
            "s1_date": ",".join(map(str, s1_days)),
            "labels": patch.labels,
            "s2": s2,
            "s1": s1,
            **_ground_reference(path, reference),
        }

    def _pair(self, root: Path, patch: Patch, s2_day: np.datetime64, s1_day: np.datetime64, reference: Raster):
        """Pixels of Sentinel-2 and Sentinel-1 on their days, on the grid of the ground reference."""
        s2_path, s1_path = patch.path(root, "s2", s2_day), patch.path(root, "s1", s1_day)
        if (apart := int(abs(s1_day - s2_day).astype(int))) > self.max_days:
            raise BadPatch(
                s2_path, f"the nearest Sentinel-1 image ({s1_day}) is {apart} days away (--max_days is {self.max_days})"
            )
        s2, s1 = geotiff.read(s2_path), geotiff.read(s1_path)
        for path, image in ((s2_path, s2), (s1_path, s1)):
            _check_crs(path, image, patch)
            check_same_grid(path, image, patch.ground_reference(root), reference)
        s2 = check(s2_path, digital_numbers(s2_path, s2), "uint16", (len(FILE_BANDS), SIZE, SIZE), nodata=0)
        return s2, check(s1_path, s1, "float32", (2, SIZE, SIZE))

    def synthesize(self, root: Path, n: int, seed: int) -> None:
        from tfrs import synthetic_multisenge

        synthetic_multisenge.multisenge(root, n, seed)


@functools.lru_cache(maxsize=2)
def _splits(dataset: MultiSenGE, root: Path) -> dict[str, str]:
    """Split of every patch of the chosen tiles by name; empty for one left out."""
    names = list(catalogue(root))
    if not names:
        raise dataset.not_found(root)
    found = {name[:5] for name in names}
    for tile in dataset.tiles:
        if tile not in found:
            raise unknown("tile", tile, sorted(found))
    names = [name for name in names if not dataset.tiles or name[:5] in dataset.tiles]
    assigned = assign(names, split=dataset.split, area=dataset.test_area, seed=dataset.seed)
    return dict(zip(names, assigned.tolist(), strict=True))


def _check_crs(path: Path, raster: Raster, patch: Patch) -> None:
    if raster.crs != patch.crs:
        raise BadPatch(path, f"CRS {raster.crs or 'missing'}, but its tile lies in {patch.crs}")


def _check_place(path: Path, raster: Raster, name: str) -> None:
    # Splits by place take it from the name, where x counts columns and y rows of the tile.
    if not np.allclose((raster.transform[2], raster.transform[5]), corner(name), rtol=0, atol=10):
        raise BadPatch(path, f"lies at {raster.transform[2]:.0f} {raster.transform[5]:.0f}, by its name at {corner(name)}")


def digital_numbers(path: Path | str, raster: Raster) -> Raster:
    """A Sentinel-2 file as uint16; Theia's nodata value becomes 0, that of the sensor.

    Raises:
        BadPatch: Another value is negative.
    """
    if raster.data.dtype != "int16":
        return raster
    data = np.where(raster.data == THEIA_NODATA, 0, raster.data)
    if (data < 0).any():
        raise BadPatch(path, f"{int((data < 0).sum())} values are negative, the lowest {data.min()}")
    return dataclasses.replace(raster, data=data.astype(np.uint16), nodata=None)


def _ground_reference(path: Path, raster: Raster) -> Sample:
    """`ground_reference` and `fractions` of a map of class numbers."""
    data = check(path, raster, raster.data.dtype, (1, SIZE, SIZE))
    if outside := sorted(set(np.unique(data).tolist()) - set(MULTISENGE.numbers)):
        raise BadPatch(path, f"has values outside the classes 1..14: {', '.join(map(str, outside))}")
    data = data.astype(np.uint8)
    counts = np.bincount(data.ravel(), minlength=len(MULTISENGE.numbers) + 1)[1:]
    return {"ground_reference": data, "fractions": (counts / data.size).astype(np.float32)}
