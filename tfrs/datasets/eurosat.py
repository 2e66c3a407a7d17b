"""EuroSAT: one land-use class per 64x64 patch, in its multispectral and its RGB edition."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from tfrs import archive, geotiff
from tfrs.datasets.base import GEOREFERENCE, Dataset, check
from tfrs.errors import BadPatch, UserError
from tfrs.labels import EUROSAT
from tfrs.schema import Field, Sample, Schema
from tfrs.sensors import Sensor, sentinel2

SIZE = 64
# The file puts B8A last, unlike SEN12MS: cirrus (B10, mean near 12) sits at position 9.
FILE_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
VAL_SHARE = TEST_SHARE = 0.1


def _parts(path: str, suffix: str) -> re.Match | None:
    """What stands before, class and number of a patch's path; None of another file's."""
    return re.fullmatch(rf"(.*?)([A-Za-z]+)/\2_(\d+)\.{suffix}", path)


@functools.lru_cache(maxsize=4)
def members(root: Path, suffix: str) -> tuple[str, dict[str, list[int]]]:
    """All patches below a folder or in a zip, listed once.

    Returns:
        What stands before `<Class>/<Class>_<n>.tif` in every path, and the numbers n of each class, sorted.
    """
    prefixes, numbers = set(), {name: [] for name in EUROSAT.classes}
    for path in archive.walk(root):
        match = _parts(path, suffix)
        if match and match[2] in numbers:
            prefixes.add(match[1])
            numbers[match[2]].append(int(match[3]))
    if len(prefixes) > 1:
        raise UserError(f"{root}: EuroSAT patches in several places ({', '.join(sorted(prefixes))}); give one with --input")
    return "".join(prefixes), {name: sorted(values) for name, values in numbers.items()}


@dataclass(frozen=True)
class EuroSat(Dataset):
    """EuroSAT, multispectral edition (Helber et al. 2019).

    - Extent: 27,000 patches of 64x64 pixels over 34 European countries; pixel size 9.97 to 10.01 m.
    - Sentinel-2: 13 bands, L1C digital numbers, uint16, B8A last.
    - Labels: `label`, one of 10 classes (3000 each; 2500 Highway, Industrial, PermanentCrop, River; 2000 Pasture).
    - Splits: none published; 80/10/10 drawn per class with the build's seed, or `--split_file`.
    - Input: a folder or the published zip, whatever stands above the class folders.
    - Licence: MIT. https://zenodo.org/records/7711810
    """

    name = "eurosat"
    suffix: ClassVar[str] = "tif"
    sensors = (sentinel2(FILE_BANDS),)
    layout = "<Class>/<Class>_<n>.tif, e.g. EuroSAT_MS/River/River_12.tif, in a folder or a zip"
    schema = Schema(
        {
            "key": Field("text"),
            **GEOREFERENCE,
            "label": Field("label", scheme="eurosat"),
            "s2": Field("raster", "uint16", (13, SIZE, SIZE)),
        },
        {"eurosat": EUROSAT},
    )

    def member(self, name: str) -> str:
        return name if _parts(name, self.suffix) else ""

    def index(self, root: Path, split: str) -> list[str]:
        root = Path(root)
        _, numbers = members(root, self.suffix) if root.exists() else ("", {})
        if not any(numbers.values()):
            raise self.not_found(root)
        keys = []
        for name, values in numbers.items():
            order = np.random.default_rng([self.seed, EUROSAT.classes.index(name)]).permutation(values)
            # A handful of patches still gives every split one.
            test, val = (round(share * len(values)) or int(len(values) > 2) for share in (TEST_SHARE, VAL_SHARE))
            part = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}[split]
            keys += [f"{name}_{number}" for number in part]
        return sorted(keys)

    def read(self, root: Path, key: str) -> Sample:
        root, (name, _, number) = Path(root), key.partition("_")
        if name not in EUROSAT.classes or not number.isdigit():
            raise BadPatch(key, f"not a patch name such as River_12 with a class of {', '.join(EUROSAT.classes)}")
        prefix, _ = members(root, self.suffix)
        path = f"{root}/{prefix}{name}/{key}.{self.suffix}"
        (sensor,) = self.sensors
        raster = geotiff.read(path)
        spec = self.schema.fields[sensor.name]
        sample: Sample = {
            "key": key,
            "label": EUROSAT.classes.index(name),
            sensor.name: check(path, raster, spec.dtype, spec.shape, sensor.nodata),
        }
        if "crs" in self.schema.fields:
            sample |= {"crs": raster.crs, "transform": np.array(raster.transform)}
        return sample

    def synthesize(self, root: Path, n: int, seed: int) -> None:
        from tfrs import synthetic

        synthetic.eurosat(root, n, seed)


@dataclass(frozen=True)
class EuroSatRgb(EuroSat):
    """EuroSAT, RGB edition: the same 27,000 patches as 8-bit JPEG, contrast-stretched, without georeference.

    - Image: `rgb`, bands B04 B03 B02, uint8; values are display intensities, not reflectances.
    - Input: the published zip (`2750/<Class>/<Class>_<n>.jpg`) or its folder. Else as `EuroSat`.
    """

    name = "eurosat_rgb"
    suffix = "jpg"
    sensors = (Sensor("rgb", ("B04", "B03", "B02"), "uint8", "display intensity 0..255"),)
    layout = "<Class>/<Class>_<n>.jpg, e.g. 2750/River/River_12.jpg, in a folder or a zip"
    schema = Schema(
        {
            "key": Field("text"),
            "label": Field("label", scheme="eurosat"),
            "rgb": Field("raster", "uint8", (3, SIZE, SIZE)),
        },
        {"eurosat": EUROSAT},
    )

    def synthesize(self, root: Path, n: int, seed: int) -> None:
        from tfrs import synthetic

        synthetic.eurosat_rgb(root, n, seed)
