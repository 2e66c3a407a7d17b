"""BigEarthNet v2 (reBEN): patches by tile, a reference map each, and everything else in one Parquet table."""

import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tfrs import archive, geotiff
from tfrs.datasets.base import check, check_same_grid
from tfrs.datasets.bigearthnet_patch import SIZE, BigEarthNetPatches, among, day, folder_names
from tfrs.errors import BadPatch, UserError
from tfrs.labels import BIGEARTHNET_19, BIGEARTHNET_43
from tfrs.schema import Field, Sample, Schema

S2_FOLDER, S1_FOLDER, MAP_FOLDER = "BigEarthNet-S2", "BigEarthNet-S1", "Reference_Maps"
_TILE = r"S2[AB]_MSIL2A_\d{8}T\d{6}_N\d{4}_R\d{3}_T\d\d[A-Z]{3}"
_KEY = rf"{_TILE}_\d{{1,3}}_\d{{1,3}}"
METADATA = "metadata.parquet"
# Beside it where the authors split the table: patches with snow, clouds or shadows.
METADATA_UNRECOMMENDED = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
SNOW, CLOUD = "contains_seasonal_snow", "contains_cloud_or_shadow"
SPLIT_NAMES = {"train": "train", "val": "val", "validation": "val", "test": "test"}
# Codes of CLC beside those of the 43 classes: glaciers, unclassified land, water and nodata; 0 is the map's own nodata.
OTHER_CODES = (0, 335, 990, 995, 999)


def _checked(path: Path, table):
    """A table whose columns have the types that are read from them, without gaps but for Sentinel-1.

    Raises:
        UserError: A column has another type, or an empty cell.
    """
    from pyarrow import types

    def text(kind) -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    def texts(kind) -> bool:
        return (types.is_list(kind) or types.is_large_list(kind)) and text(kind.value_type)

    wanted = {"labels": (texts, "lists of text"), SNOW: (types.is_boolean, "booleans"), CLOUD: (types.is_boolean, "booleans")}
    for column in table.column_names:
        fits, words = wanted.get(column, (text, "text"))
        kind = table.schema.field(column).type
        if not fits(kind) and not (column == "s1_name" and types.is_null(kind)):
            raise UserError(f"{path}: column {column} holds {kind}, expected {words}")
        if column != "s1_name" and table[column].null_count:
            raise UserError(f"{path}: column {column} has {table[column].null_count} empty cells")
    return table


@dataclass(frozen=True)
class BigEarthNetV2(BigEarthNetPatches):
    """BigEarthNet v2, refined BigEarthNet or reBEN (Clasen et al. 2024).

    - Extent: 549,488 patches of 1.2 km over 10 European countries, June 2017 to May 2018, atmospherically corrected anew.
    - Sentinel-2: 12 bands, L2A digital numbers, uint16; 120x120 at 10 m, 60x60 at 20 m, 20x20 at 60 m.
      Sentinel-1: GRD, VV and VH in dB, float32, 120x120.
    - Labels: `labels`, classes present of the 19-class scheme; `reference_map`, the CORINE Land Cover 2018 level-3 code of
      every pixel, uint16, 0 where there is none. `labels.BIGEARTHNET_43.numbers` are these codes, its merge leads to the 19.
    - Splits: the authors', apart in space, from metadata.parquet; patches with snow, clouds, shadows or no label are left out.
    - Input: a folder with the layout as unpacked, or with BigEarthNet-S2.tar.zst, BigEarthNet-S1.tar.zst and
      Reference_Maps.tar.zst; metadata.parquet beside them.
    - Licence: CDLA-Permissive-1.0. https://bigearth.net

    Attributes:
        reference_map: Store the reference map. None: `at` decides by whether its folder is there.
    """

    name = "bigearthnet_v2"
    folders = (S2_FOLDER, S1_FOLDER, MAP_FOLDER)
    layout = f"{S2_FOLDER}/<tile>/<patch>/<patch>_B02.tif, e.g. patch S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"

    reference_map: bool | None = None

    @functools.cached_property
    def schema(self) -> Schema:
        fields, schemes = self.common_fields(), {"bigearthnet_19": BIGEARTHNET_19}
        if self.mapped:
            fields["reference_map"] = Field("raster", "uint16", (1, SIZE, SIZE), "bigearthnet_43")
            schemes["bigearthnet_43"] = BIGEARTHNET_43
        return Schema(fields, schemes)

    @property
    def mapped(self) -> bool:
        return self.reference_map is not False

    def member(self, name: str) -> str:
        match = re.search(rf"(?:^|/)((?:{'|'.join(self.folders)})/.+)", name)
        return match[1] if match else ""

    def at(self, root: Path) -> "BigEarthNetV2":
        open_options = {"s1": S1_FOLDER, "reference_map": MAP_FOLDER}
        there = {
            name: archive.is_dir(Path(root) / folder) for name, folder in open_options.items() if getattr(self, name) is None
        }
        return replace(self, **there)

    def index(self, root: Path, split: str) -> list[str]:
        root = Path(root)
        keys, splits, unrecommended = self._listed(root)
        wanted = (splits == split.encode()) & (self.keep_unrecommended | ~np.logical_or.reduce([*unrecommended.values()]))
        return [key.decode() for key in keys[wanted & among(keys, self._there(root))]]

    def left_out(self, root: Path) -> dict[str, int]:
        keys, _, unrecommended = self._listed(Path(root))
        there = among(keys, self._there(Path(root)))
        counts = {reason: int((flag & there).sum()) for reason, flag in unrecommended.items()}
        return ({} if self.keep_unrecommended else counts) | {"listed, but not there": int((~there).sum())}

    def _there(self, root: Path) -> np.ndarray:
        for folder, wanted, flag in (
            (S1_FOLDER, self.paired, "--nos1 for Sentinel-2 alone"),
            (MAP_FOLDER, self.mapped, "--noreference_map for records without dense labels"),
        ):
            if wanted and not archive.is_dir(root / folder):
                raise UserError(f"{root}: has no {folder}; put it there, or give {flag}")
        return _patch_names(root)

    def _listed(self, root: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Keys and splits of the table as bytes, and per reason which rows are not recommended."""
        if not archive.is_dir(root / S2_FOLDER):
            raise self.not_found(root)
        from pyarrow import compute

        table = _metadata(root, self.keep_unrecommended)
        names = table["split"].to_pylist()
        if outside := set(names) - SPLIT_NAMES.keys():
            raise UserError(f"{root / METADATA}: split {outside.pop()!r} is none of {', '.join(SPLIT_NAMES)}")
        unrecommended = {
            "with seasonal snow": table[SNOW].to_numpy().astype(bool),
            "with clouds or their shadows": table[CLOUD].to_numpy().astype(bool),
            "without a label of the 19 classes": compute.list_value_length(table["labels"]).to_numpy() == 0,
        }
        return _keys(root, self.keep_unrecommended), np.array([SPLIT_NAMES[name] for name in names], "S5"), unrecommended

    def read(self, root: Path, key: str) -> Sample:
        root = Path(root)
        if not re.fullmatch(_KEY, key):
            raise BadPatch(key, "not a patch name such as S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57")
        row = self._row(root, key)
        scene = key.rsplit("_", 2)[0]
        s1 = self._partner(root, row["s1_name"]) if self.paired else None
        sample, path, grid = self.read_rasters(root / S2_FOLDER / scene / key, s1, scene[-5:])
        sample |= {"key": key, "date": day(key), "labels": _class_ids(root, key, row["labels"])}
        if self.mapped:
            file = root / MAP_FOLDER / scene / key / f"{key}_reference_map.tif"
            raster = geotiff.read(file)
            sample["reference_map"] = check(file, raster, "uint16", (1, SIZE, SIZE), nodata=0)
            check_same_grid(file, raster, path, grid)
            unknown = np.setdiff1d(raster.data, (*BIGEARTHNET_43.numbers, *OTHER_CODES))
            if len(unknown):
                raise BadPatch(file, f"values that are no CORINE codes: {', '.join(map(str, unknown[:5]))}")
        return sample

    def _row(self, root: Path, key: str) -> dict:
        keys = _keys(root, self.keep_unrecommended)
        at = np.searchsorted(keys, key.encode())
        if at == len(keys) or keys[at] != key.encode():
            raise BadPatch(root / METADATA, f"has no row for {key}")
        (row,) = _metadata(root, self.keep_unrecommended).slice(at, 1).to_pylist()
        return row

    def _partner(self, root: Path, name: str | None) -> Path:
        if not name:
            raise BadPatch(root / METADATA, "s1_name is empty")
        return root / S1_FOLDER / name.rsplit("_", 3)[0] / name

    def synthesize(self, root: Path, n: int, seed: int) -> None:
        from tfrs import synthetic_bigearthnet

        synthetic_bigearthnet.v2(root, n, seed)


def _class_ids(root: Path, key: str, names: list[str]) -> np.ndarray:
    unknown = [name for name in names if name not in BIGEARTHNET_19.classes]
    if unknown:
        raise BadPatch(root / METADATA, f"label {unknown[0]!r} of {key} is none of the 19 classes")
    return np.array(sorted(BIGEARTHNET_19.classes.index(name) for name in names), np.int64)


@functools.lru_cache(maxsize=1)
def _patch_names(root: Path) -> np.ndarray:
    tiles = folder_names(root / S2_FOLDER, _TILE)
    names = [folder_names(root / S2_FOLDER / tile.decode(), _KEY) for tile in tiles]
    return np.sort(np.concatenate([np.empty(0, "S64"), *names]))


@functools.lru_cache(maxsize=1)
def _keys(root: Path, unrecommended: bool) -> np.ndarray:
    table = _metadata(root, unrecommended)
    return np.fromiter((key.as_py().encode() for key in table["patch_id"]), "S64", len(table))


@functools.lru_cache(maxsize=1)
def _metadata(root: Path, unrecommended: bool):
    """The columns needed of the table, sorted by patch, as a pyarrow Table.

    Raises:
        UserError: The table is missing or no Parquet file, or a column is missing.
    """
    import pyarrow
    from pyarrow import parquet

    columns = ["patch_id", "labels", "split", "s1_name", SNOW, CLOUD]
    tables = []
    for name in (METADATA, METADATA_UNRECOMMENDED):
        path = archive.origin(root) / name
        if name != METADATA and not (unrecommended and path.exists()):
            continue
        try:
            with parquet.ParquetFile(path) as file:
                missing = [column for column in columns if column not in file.schema_arrow.names]
                if missing:
                    raise UserError(f"{path}: has no column {', '.join(missing)}; is it the table of BigEarthNet v2?")
                tables.append(_checked(path, file.read(columns)))
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; put BigEarthNet's {METADATA} there") from error
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: cannot be read as Parquet ({error})") from error
    return pyarrow.concat_tables(tables).sort_by("patch_id").combine_chunks()
