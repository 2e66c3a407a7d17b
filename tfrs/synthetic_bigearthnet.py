"""Simulated BigEarthNet in the official layout of both versions: rasters, JSON or Parquet, reference maps and split lists.

Patch i of a seed is the same however many are written, and in both versions. The pixels come from `tfrs.landscape`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrs import landscape
from tfrs.datasets import bigearthnet as layout_v1
from tfrs.datasets import bigearthnet_v2 as layout_v2
from tfrs.datasets.bigearthnet_patch import BANDS, SIZE, utm
from tfrs.geotiff import Raster, write
from tfrs.labels import BIGEARTHNET_19, BIGEARTHNET_43, merge_matrix
from tfrs.landscape import Cover
from tfrs.records import SPLITS
from tfrs.sensors import S1_BANDS, S2_SAMPLING, sentinel2

# CLC code -> what covers it; of the frequent classes of BigEarthNet, one or two for each surface of the landscape.
COVERS = {
    112: Cover("lots", {"roof": 0.45, "trees": 0.4, "rubble": 0.13, "asphalt": 0.02}),
    121: Cover("yards", {"hall": 0.35, "roof": 0.2, "asphalt": 0.3, "grass": 0.15}),
    124: Cover("yards", {"asphalt": 0.5, "grass": 0.5}),
    211: Cover("fields", {"crop": 0.35, "cereal": 0.3, "ripe crop": 0.2, "soil": 0.15}),
    221: Cover("orchards", {"trees": 0.5, "soil": 0.3, "ripe crop": 0.2}),
    231: Cover("fields", {"grass": 0.85, "dry grass": 0.1, "trees": 0.05}),
    311: Cover("stands", {"broadleaf": 0.95, "grass": 0.05}),
    312: Cover("stands", {"conifer": 0.95, "grass": 0.05}),
    313: Cover("stands", {"broadleaf": 0.5, "conifer": 0.5}),
    321: Cover("stands", {"dry grass": 0.7, "grass": 0.3}),
    324: Cover("grain", {"shrub": 0.5, "trees": 0.3, "dry grass": 0.2}),
    411: Cover("stands", {"reed": 0.85, "water": 0.15}),
    512: Cover("stands", {"water": 0.8, "turbid water": 0.2}),
    523: Cover("stands", {"water": 1.0}),
}
TILES = ("33UUP", "29SND", "35VPK", "29UPU", "34TCS")
# CORINE's smallest area is 25 ha, 50x50 pixels.
ZONE = 30


@dataclass(frozen=True)
class Patch:
    """One simulated patch: its place, its times, the CLC codes of its pixels (H, W), and its images by band."""

    tile: str
    column: int
    row: int
    month: int
    snow: bool
    codes: np.ndarray
    bands: dict[str, np.ndarray]

    @property
    def place(self) -> str:
        return f"{self.column}_{self.row}"

    @property
    def corner(self) -> tuple[int, int]:
        return 300_000 + 1200 * self.column, 5_400_000 - 1200 * self.row

    def raster(self, data: np.ndarray, nodata: float | None = None) -> Raster:
        west, north = self.corner
        metres = 10 * SIZE / data.shape[-1]
        return Raster(data[None], utm(self.tile), (metres, 0.0, west, 0.0, -metres, north), nodata)

    def write_bands(self, folder: Path, bands: tuple[str, ...], nodata: float | None = None) -> None:
        folder.mkdir(parents=True)
        for band in bands:
            write(folder / f"{folder.name}_{band}.tif", self.raster(self.bands[band], nodata))


def _patches(n: int, seed: int) -> Iterator[tuple[str, Patch]]:
    """Split and patch; of every five, three are train, one val and one test, and of every twenty one has snow."""
    codes = list(COVERS)
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        month = int(rng.choice((1, 4, 7, 10)))
        seen = landscape.acquire(rng, {1: "winter", 4: "spring", 7: "summer", 10: "fall"}[month])
        # Steps of 5 through the 14 classes: all have had their turn after 14 patches.
        chosen = sorted({codes[5 * i % len(codes)], *rng.choice(codes, 2, replace=False).tolist()})
        where = landscape.zones(rng, (SIZE, SIZE), chosen, ZONE)
        ground = landscape.compose(rng, where, COVERS)
        image = landscape.sentinel2(rng, ground, seen)
        bands = {band: _coarse(plane, S2_SAMPLING[band] // 10) for band, plane in zip(sentinel2().bands, image, strict=True)}
        bands |= dict(zip(S1_BANDS, landscape.sentinel1(rng, ground, seen), strict=True))
        column, row = divmod(i // len(TILES), 90)
        place = {"tile": TILES[i % len(TILES)], "column": column, "row": row}
        yield SPLITS[(0, 1, 2, 0, 0)[i % 5]], Patch(**place, month=month, snow=i % 20 == 19, codes=where, bands=bands)


def _coarse(plane: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks of factor x factor pixels, as a band of coarser ground sampling measures."""
    size = len(plane) // factor
    return np.rint(plane.reshape(size, factor, size, factor).mean((1, 3))).astype(plane.dtype)


def _names(codes: np.ndarray) -> tuple[list[str], list[str]]:
    """Names of the classes of a map of CLC codes, in the 43-class and in the 19-class scheme."""
    present = np.isin(BIGEARTHNET_43.numbers, codes)
    merged = present @ merge_matrix("bigearthnet_43", "bigearthnet_19") > 0
    return (
        [name for name, there in zip(BIGEARTHNET_43.classes, present, strict=True) if there],
        [name for name, there in zip(BIGEARTHNET_19.classes, merged, strict=True) if there],
    )


def v1(root: Path, n: int, seed: int) -> None:
    """Write `n` pairs of BigEarthNet v1 below `root`, with JSON and split lists."""
    lists: dict[str, list[str]] = {f"{split}.csv": [] for split in SPLITS} | {name: [] for name in layout_v1.UNRECOMMENDED}
    snow, _, unlabelled = layout_v1.UNRECOMMENDED
    for split, patch in _patches(n, seed):
        # The name does not tell the tile, so each tile has a day of its own; the hour has one digit, as in some of the archive.
        month, day = f"2017-{patch.month:02}", 15 + TILES.index(patch.tile)
        date = f"{month.replace('-', '')}{day}"
        s2 = f"S2A_MSIL2A_{date}T94031_{patch.place}"
        s1 = f"S1B_IW_GRDH_1SDV_{date[:6]}14T053010_{patch.tile}_{patch.place}"
        names_43, names_19 = _names(patch.codes)
        west, north = patch.corner
        common = {"labels": names_43, "projection": f'PROJCS["UTM",AUTHORITY["EPSG","{utm(patch.tile)[5:]}"]]'}
        corners = {"ulx": west, "uly": north, "lrx": west + 1200}
        about_s2 = {
            "coordinates": {**corners, "lry": north - 1200},
            "tile_source": f"S2A_MSIL1C_{date}T094031_N0205_R122_T{patch.tile}_{date}T094034.SAFE",
            "acquisition_date": f"{month}-{day} 09:40:31",
        }
        about_s1 = {
            "coordinates": {**corners, "lly": north - 1200},
            "corresponding_s2_patch": s2,
            "scene_source": s1.rsplit("_", 3)[0],
            "acquisition_time": f"{month}-14T05:30:10",
        }
        for top, name, bands, about in (
            (layout_v1.S2_FOLDER, s2, BANDS, about_s2),
            (layout_v1.S1_FOLDER, s1, S1_BANDS, about_s1),
        ):
            folder = Path(root, top, name)
            patch.write_bands(folder, bands)
            (folder / f"{name}_labels_metadata.json").write_text(json.dumps({**common, **about}))
        lists[snow if patch.snow else f"{split}.csv" if names_19 else unlabelled].append(s2)
    (Path(root) / "splits").mkdir()
    for name, keys in lists.items():
        (Path(root) / "splits" / name).write_bytes("".join(f"{key}\r\n" for key in sorted(keys)).encode())


def v2(root: Path, n: int, seed: int) -> None:
    """Write `n` pairs of BigEarthNet v2 below `root`, with reference maps and metadata.parquet."""
    import pyarrow
    from pyarrow import parquet

    rows = []
    for split, patch in _patches(n, seed):
        tile = f"S2A_MSIL2A_2017{patch.month:02}15T094031_N9999_R122_T{patch.tile}"
        scene = f"S1B_IW_GRDH_1SDV_2017{patch.month:02}14T053010"
        s2, s1 = f"{tile}_{patch.place}", f"{scene}_{patch.tile}_{patch.place}"
        patch.write_bands(Path(root, layout_v2.S2_FOLDER, tile, s2), BANDS, nodata=0)
        patch.write_bands(Path(root, layout_v2.S1_FOLDER, scene, s1), S1_BANDS)
        folder = Path(root, layout_v2.MAP_FOLDER, tile, s2)
        folder.mkdir(parents=True)
        write(folder / f"{s2}_reference_map.tif", patch.raster(patch.codes.astype(np.uint16), nodata=0))
        rows.append(
            {
                "patch_id": s2,
                "labels": _names(patch.codes)[1],
                "split": {"val": "validation"}.get(split, split),
                "country": "Nowhere",
                "s1_name": s1,
                "s2v1_name": s2,
                layout_v2.SNOW: patch.snow,
                layout_v2.CLOUD: False,
            }
        )
    parquet.write_table(pyarrow.Table.from_pylist(rows), Path(root) / layout_v2.METADATA)
