"""BigEarthNet v1: Sentinel-2 patches with 43 CORINE labels, each paired with one of Sentinel-1."""

import functools
import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tfrs import archive
from tfrs.datasets.bigearthnet_patch import BigEarthNetPatches, among, day, folder_names
from tfrs.errors import BadPatch, UserError
from tfrs.geotiff import Raster
from tfrs.labels import BIGEARTHNET_19, BIGEARTHNET_43, DROPPED, MERGES
from tfrs.schema import Field, Sample, Schema

S2_FOLDER, S1_FOLDER = "BigEarthNet-v1.0", "BigEarthNet-S1-v1.0"
# The hour may have one digit: S2B_MSIL2A_20170924T93020_41_73.
_KEY = r"S2[AB]_MSIL2A_\d{8}T\d{4,6}_\d{1,3}_\d{1,3}"
_S1_NAME = r"S1[AB]_IW_GRDH_1SDV_\d{8}T\d{4,6}_\d\d[A-Z]{3}_\d{1,3}_\d{1,3}"
UNRECOMMENDED = {
    "patches_with_seasonal_snow.csv": "with seasonal snow",
    "patches_with_cloud_and_shadow.csv": "with clouds or their shadows",
    "patches_with_no_19_class_targets.csv": "without a label of the 19 classes",
}


@dataclass(frozen=True)
class BigEarthNet(BigEarthNetPatches):
    """BigEarthNet v1 (Sumbul et al. 2019, 2021), in Sentinel-2 alone or with its Sentinel-1 pairs (BigEarthNet-MM).

    - Extent: 590,326 patches of 1.2 km over 10 European countries, June 2017 to May 2018.
    - Sentinel-2: 12 bands, L2A digital numbers, uint16; 120x120 at 10 m, 60x60 at 20 m, 20x20 at 60 m.
      Sentinel-1: GRD, VV and VH in dB, float32, 120x120.
    - Labels: `labels`, classes present of the 19-class scheme; `labels_43`, of CORINE Land Cover 2018 level 3.
    - Splits: the authors' lists train.csv, val.csv and test.csv (269,695, 123,723 and 125,866 patches). Patches with snow
      (61,707), clouds or shadows (9,280) or no label of the 19 classes (57) are in none of them; kept, they are train.
    - Known trouble: hours of one digit in names; `lly` for `lry` and `acquisition_time` for `acquisition_date` in the JSON of
      Sentinel-1.
    - Input: a folder with the layout as unpacked, or with BigEarthNet-S2-v1.0.tar.gz and BigEarthNet-S1-v1.0.tar.gz.
    - Licence: CDLA-Permissive-1.0. https://bigearth.net/v1.0.html

    Attributes:
        split_lists: Folder or zip with the authors' lists; looked for in and beside the root where empty.
    """

    name = "bigearthnet"
    folders = (S2_FOLDER, S1_FOLDER)
    layout = f"{S2_FOLDER}/<patch>/<patch>_B02.tif, e.g. {S2_FOLDER}/S2A_MSIL2A_20170613T101031_87_48"

    split_lists: str = ""

    @functools.cached_property
    def schema(self) -> Schema:
        fields = {**self.common_fields(), "labels_43": Field("labels", scheme="bigearthnet_43")}
        return Schema(fields, {scheme.name: scheme for scheme in (BIGEARTHNET_19, BIGEARTHNET_43)})

    def member(self, name: str) -> str:
        match = re.search(rf"(?:^|/)((?:{S2_FOLDER}|{S1_FOLDER})/.+)", name)
        return match[1] if match else ""

    def at(self, root: Path) -> "BigEarthNet":
        return self if self.s1 is not None else replace(self, s1=archive.is_dir(Path(root) / S1_FOLDER))

    def index(self, root: Path, split: str) -> list[str]:
        root = Path(root)
        there, lists = self._names(root), self._lists(root)
        if not lists:
            raise UserError(
                f"{root}: no train.csv, val.csv and test.csv of BigEarthNet found; put them into {root / 'splits'} "
                "(or splits.zip), name their place with --split_lists, or give lists of your own with --split_file"
            )
        wanted = among(there, lists.read(f"{split}.csv"))
        if self.keep_unrecommended and split == "train":
            for name in UNRECOMMENDED:
                wanted |= among(there, lists.read(name))
        return _decode(there[wanted])

    def keys(self, root: Path) -> set[str]:
        root = Path(root)
        there, lists = self._names(root), self._lists(root)
        if lists and not self.keep_unrecommended:
            for name in UNRECOMMENDED:
                there = there[~among(there, lists.read(name, optional=True))]
        return set(_decode(there))

    def left_out(self, root: Path) -> dict[str, int]:
        root = Path(root)
        there, lists = self._names(root), self._lists(root)
        if not lists:
            return {}
        missing, known = 0, np.zeros(len(there), bool)
        for split in self.splits:
            names = lists.read(f"{split}.csv")
            found = among(there, names)
            missing, known = missing + len(names) - int(found.sum()), known | found
        counts = {}
        for name, reason in UNRECOMMENDED.items():
            found = among(there, lists.read(name, optional=True))
            counts[reason], known = int(found.sum()), known | found
        counts = {} if self.keep_unrecommended else counts
        return counts | {"listed, but not there": missing, "in no list": len(there) - int(known.sum())}

    def _names(self, root: Path) -> np.ndarray:
        if self.paired and not archive.is_dir(root / S1_FOLDER) and archive.is_dir(root / S2_FOLDER):
            raise UserError(f"{root}: has no {S1_FOLDER}; put it there, or give --nos1 for Sentinel-2 alone")
        names = _patch_names(root) if archive.is_dir(root / S2_FOLDER) else ()
        if not len(names):
            raise self.not_found(root)
        return names

    def _lists(self, root: Path) -> "Lists | None":
        if self.split_lists:
            return Lists(Path(self.split_lists))
        root = archive.origin(root)
        places = [place / name for place in (root, root.parent) for name in ("splits", "splits.zip")]
        return next((Lists(place) for place in places if place.exists()), None)

    def read(self, root: Path, key: str) -> Sample:
        folder = Path(root) / S2_FOLDER / key
        if not re.fullmatch(_KEY, key):
            raise BadPatch(key, "not a patch name such as S2A_MSIL2A_20170613T101031_87_48")
        about = Metadata(folder)
        about.check_day("acquisition_date")
        tile = about.tile()
        s1 = self._partner(Path(root), key, tile) if self.paired else None
        sample, path, grid = self.read_rasters(folder, s1.folder if s1 else None, tile)
        for metadata in (about, s1) if s1 else (about,):
            metadata.check_corners(path, grid)
        return sample | self._labels(about) | {"key": key, "date": day(key)}

    def _labels(self, about: "Metadata") -> Sample:
        if not isinstance(about["labels"], list):
            raise BadPatch(about.path, f"labels is no list but {about['labels']!r}")
        labels_43 = sorted(about.class_id(name) for name in about["labels"])
        merged = {MERGES["bigearthnet_43", "bigearthnet_19"][class_id] for class_id in labels_43}
        labels = sorted(merged - {DROPPED})
        if not labels and not self.keep_unrecommended:
            raise BadPatch(about.path, "none of its labels is in the 19-class scheme; --keep_unrecommended keeps such patches")
        return {"labels": np.array(labels, np.int64), "labels_43": np.array(labels_43, np.int64)}

    def _partner(self, root: Path, key: str, tile: str) -> "Metadata":
        """The Sentinel-1 patch whose JSON names this one, among those at the same place of the same tile."""
        place = f"{tile}_{'_'.join(key.split('_')[-2:])}"
        for name in _partners(root, place):
            about = Metadata(root / S1_FOLDER / name)
            if about["corresponding_s2_patch"] == key:
                about.check_day("acquisition_time")
                return about
        raise BadPatch(root / S1_FOLDER, f"no Sentinel-1 patch of {key} (of those named *_{place}, by corresponding_s2_patch)")

    def synthesize(self, root: Path, n: int, seed: int) -> None:
        from tfrs import synthetic_bigearthnet

        synthetic_bigearthnet.v1(root, n, seed)


@functools.lru_cache(maxsize=1)
def _patch_names(root: Path) -> np.ndarray:
    return folder_names(root / S2_FOLDER, _KEY)


@functools.lru_cache(maxsize=1)
def _s1_names(root: Path) -> np.ndarray:
    """Sentinel-1 patches by place: `33UUP_87_48 S1A_...`, sorted.

    A name tells tile and place but not the Sentinel-2 patch, which only its JSON does. Names by place need one listing of the
    folder; the few JSONs of a place are opened when its patch is read, never all 590,326.
    """
    names = folder_names(root / S1_FOLDER, _S1_NAME)
    return np.sort(np.fromiter((b"_".join(name.split(b"_")[5:]) + b" " + name for name in names), "S80", len(names)))


def _partners(root: Path, place: str) -> Iterable[str]:
    names, wanted = _s1_names(root), f"{place} ".encode()
    for i in range(np.searchsorted(names, wanted), len(names)):
        if not names[i].startswith(wanted):
            return
        yield names[i].decode().partition(" ")[2]


def _decode(names: np.ndarray) -> list[str]:
    return [name.decode() for name in names]


@dataclass(frozen=True)
class Lists:
    """Lists of patch names, one a line without a header, in a folder or a zip."""

    place: Path

    def read(self, name: str, optional: bool = False) -> np.ndarray:
        """The names of a list as bytes, sorted; none where the list is optional and not there.

        Raises:
            UserError: The list is not there, or no list.
        """
        try:
            if self.place.is_dir():
                content = (self.place / name).read_bytes()
            else:
                with zipfile.ZipFile(self.place) as lists:
                    members = {member.rpartition("/")[2]: member for member in lists.namelist()}
                    content = lists.read(members[name])
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            if optional:
                return np.empty(0, "S64")
            raise UserError(f"{self.place}: no list {name} in this folder or zip of BigEarthNet's split lists") from error
        names = np.unique(np.array(content.split(), "S64"))
        if len(names) and not re.fullmatch(_KEY, first := names[0].decode(errors="replace")):
            raise UserError(f"{self.place / name}: {first!r} is no patch name; one name a line is wanted, without a header")
        return names


class Metadata:
    """The JSON beside a patch's rasters."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / f"{folder.name}_labels_metadata.json"
        try:
            self.content = json.loads(archive.read_bytes(self.path))
        except OSError as error:
            raise BadPatch(self.path, "no such file") from error
        except ValueError as error:
            raise BadPatch(self.path, f"cannot be read as JSON ({error})") from error

    def __getitem__(self, name: str):
        if not isinstance(self.content, dict) or not self.content.get(name):
            raise BadPatch(self.path, f"has no {name}")
        return self.content[name]

    def tile(self) -> str:
        match = re.search(r"_T(\d\d[A-Z]{3})_", str(self["tile_source"]))
        if not match:
            raise BadPatch(self.path, f"tile_source {self['tile_source']!r} names no tile such as T33UUP")
        return match[1]

    def class_id(self, name: str) -> int:
        if name not in BIGEARTHNET_43.classes:
            raise BadPatch(self.path, f"label {name!r} is none of the 43 classes")
        return BIGEARTHNET_43.classes.index(name)

    def check_day(self, name: str) -> None:
        if str(self[name])[:10] != day(self.folder.name):
            raise BadPatch(self.path, f"{name} is {self[name]}, but the patch's name says {day(self.folder.name)}")

    def check_corners(self, path: str, grid: Raster) -> None:
        corners = self["coordinates"] if isinstance(self["coordinates"], dict) else {}
        # Sentinel-1 calls the lower right corner's northing lly.
        found = [corners.get("ulx"), corners.get("uly"), corners.get("lrx"), corners.get("lry", corners.get("lly"))]
        step, _, west, _, _, north = grid.transform
        size = step * grid.data.shape[1]
        if found != [west, north, west + size, north - size]:
            raise BadPatch(self.path, f"corners {found} are not those of {path}, which begins at {west:g}, {north:g}")
