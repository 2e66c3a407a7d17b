"""SEN12MS: triplets of Sentinel-1, Sentinel-2 and MODIS land cover."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrs import archive, geotiff
from tfrs.datasets.base import GEOREFERENCE, Dataset, check, check_same_grid
from tfrs.errors import BadPatch
from tfrs.labels import IGBP, IGBP_SIMPLIFIED, histogram, merge_matrix
from tfrs.schema import Field, Sample, Schema
from tfrs.sensors import sentinel1, sentinel2

SIZE = 256
SEASONS = ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter")
_FILE = re.compile(r"(ROIs\d{4}_(?:spring|summer|fall|winter))_((?:s1|s2|lc)_\d+)_p\d+\.tif")
_TO_SIMPLIFIED = merge_matrix("igbp", "igbp_simplified").astype(np.int64)
_KEY = re.compile(r"(ROIs\d{4}_(?:spring|summer|fall|winter))_s2_(\d+)_p(\d+)")

# Scene numbers per season: the authors' hold-out scenes are the test split, their validation scenes (of the rest) are val.
TEST_SCENES = {
    "ROIs1158_spring": {15, 17, 63, 97, 124, 146},
    "ROIs1868_summer": {15, 19, 43, 72, 79, 104, 131},
    "ROIs1970_fall": {30, 35, 39, 47, 61, 120, 141, 144},
    "ROIs2017_winter": {32, 64, 107, 135, 146},
}
VAL_SCENES = {
    "ROIs1158_spring": {44, 45, 77, 112, 113, 117},
    "ROIs1868_summer": {26, 36, 55, 73, 89, 113},
    "ROIs1970_fall": {1, 3, 14, 20, 57, 62, 93, 130, 142},
    "ROIs2017_winter": {69, 77, 103, 144},
}


def parse_key(key: str) -> tuple[str, int, int]:
    """Season, scene number and patch number of `ROIs1158_spring_s2_1_p30`.

    Raises:
        BadPatch: The key is not such a name.
    """
    match = _KEY.fullmatch(key)
    if not match:
        raise BadPatch(key, "not the base name of a Sentinel-2 patch such as ROIs1158_spring_s2_1_p30")
    return match[1], int(match[2]), int(match[3])


def paths(root: Path, key: str) -> dict[str, str]:
    """The three files of a patch. Built from the parts of the name: `ROIs1158` itself contains `s1`."""
    season, scene, patch = parse_key(key)
    return {part: f"{root}/{season}/{part}_{scene}/{season}_{part}_{scene}_p{patch}.tif" for part in ("s2", "s1", "lc")}


def split_of(season: str, scene: int) -> str:
    if scene in TEST_SCENES.get(season, ()):
        return "test"
    return "val" if scene in VAL_SCENES.get(season, ()) else "train"


@dataclass(frozen=True)
class Sen12MS(Dataset):
    """SEN12MS for scene classification (Schmitt et al. 2019; Schmitt & Wu 2021).

    - Extent: 180,662 patches of 252 scenes, all inhabited continents, four seasons of 2016 and 2017.
    - Sentinel-2: 13 bands, L1C digital numbers, uint16, 256x256 at 10 m. Sentinel-1: GRD, VV and VH in dB, float32.
    - Land cover: MODIS MCD12Q1 at 500 m, resampled to 10 m; four schemes, of which the first, IGBP, makes the labels.
    - Labels: `fractions` over the 17 IGBP classes (of the labelled pixels), `label` = mode of the 10 simplified classes
      (ties: lowest number), `labels` = simplified classes with a fraction above 10 %.
    - Splits: by scene. 26 hold-out scenes are test (18,106 patches), 25 validation scenes val (18,550), the rest train.
    - Known trouble: ROIs1868_summer scene 146 patch 202 has NaN in Sentinel-1. IGBP 0 and 255 mean "no label".
    - Input: a folder with the layout as unpacked, or with the published ROIs*_{s1,s2,lc}.tar.gz (or tar, or zip).
    - Licence: CC BY 4.0. https://mediatum.ub.tum.de/1474000
    """

    name = "sen12ms"
    sensors = (sentinel2(), sentinel1())
    folders = SEASONS
    layout = "<season>/s2_<scene>/<season>_s2_<scene>_p<patch>.tif, e.g. ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif"
    schema = Schema(
        {
            "key": Field("text"),
            **GEOREFERENCE,
            "label": Field("label", scheme="igbp_simplified"),
            "labels": Field("labels", scheme="igbp_simplified"),
            "fractions": Field("fractions", scheme="igbp"),
            "s2": Field("raster", "uint16", (13, SIZE, SIZE)),
            "s1": Field("raster", "float32", (2, SIZE, SIZE)),
            "lc": Field("raster", "uint16", (4, SIZE, SIZE), "igbp"),
        },
        {"igbp": IGBP, "igbp_simplified": IGBP_SIMPLIFIED},
    )

    def member(self, name: str) -> str:
        # Some archives begin with the season's folder, others with the scene's; the file's own name says it all.
        match = _FILE.fullmatch(name.rpartition("/")[2])
        return f"{match[1]}/{match[2]}/{match[0]}" if match else ""

    def index(self, root: Path, split: str) -> list[str]:
        root, keys, scenes = Path(root), [], 0
        for season in SEASONS:
            for folder in archive.names(root / season):
                if not (match := re.fullmatch(r"s2_(\d+)", folder)):
                    continue
                scenes += 1
                if split_of(season, int(match[1])) == split:
                    pattern = re.compile(rf"({season}_{folder}_p\d+)\.tif")
                    names = map(pattern.fullmatch, archive.names(root / season / folder))
                    keys += [name[1] for name in names if name]
        if not scenes:
            raise self.not_found(root)
        return sorted(keys)

    def read(self, root: Path, key: str) -> Sample:
        files = paths(root, key)
        rasters = {name: geotiff.read(path) for name, path in files.items()}
        sample: Sample = {"key": key, "crs": rasters["s2"].crs, "transform": np.array(rasters["s2"].transform)}
        nodata = {sensor.name: sensor.nodata for sensor in self.sensors}
        for name, raster in rasters.items():
            spec = self.schema.fields[name]
            sample[name] = check(files[name], raster, spec.dtype, spec.shape, nodata.get(name))
            check_same_grid(files[name], raster, files["s2"], rasters["s2"])
        return sample | labels_of(sample["lc"][0], files["lc"])

    def synthesize(self, root: Path, n: int, seed: int) -> None:
        from tfrs import synthetic

        synthetic.sen12ms(root, n, seed)


def labels_of(igbp: np.ndarray, path) -> Sample:
    """`fractions`, `label` and `labels` of an IGBP map (H, W).

    Raises:
        BadPatch: No pixel has a label, or one has a number outside 1..17 (0 and 255: no label).
    """
    counts = histogram(igbp, 256)
    outside = [number for number in np.flatnonzero(counts) if number > 17 and number != 255]
    if outside:
        raise BadPatch(path, f"band 1 has values outside the IGBP scheme 1..17: {', '.join(map(str, outside))}")
    counts = counts[1:18]
    if not counts.sum():
        raise BadPatch(path, "no pixel of band 1 has an IGBP label")
    simplified = counts @ _TO_SIMPLIFIED
    return {
        "fractions": (counts / counts.sum()).astype(np.float32),
        "label": int(simplified.argmax()),
        # Section 2.2: probability larger than 10 %, in integers because 0.1 has no exact binary form.
        "labels": np.flatnonzero(10 * simplified > counts.sum()),
    }
