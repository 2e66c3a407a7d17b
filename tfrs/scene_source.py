"""Which file holds which band of a scene, and what its product says of its values: by names and metadata, without pixels."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfrs import archive, geotiff
from tfrs.errors import UserError
from tfrs.sensors import S2_BANDS

_SUFFIXES = ("tif", "tiff", "jp2", "vrt", "img")
# B02.tif, T48QUE_20200223T032739_B02_10m.jp2 (SAFE, L2A), <patch>_B8A.tif (BigEarthNet), S1_VV.tif
_BAND_FILE = re.compile(rf"(?:.*[_\-.])?(B\d\d|B8A|VV|VH)(?:_(\d+)m)?\.(?:{'|'.join(_SUFFIXES)})", re.IGNORECASE)
_BAND_NAME = re.compile(r"\b(?:B(?:and)?[ _]?0?(\d{1,2})(A?)|(VV|VH))(?![A-Za-z0-9])", re.IGNORECASE)
_PRODUCT = re.compile(r"S2[A-D]_MSI(L1C|L2A)_\d{8}T\d{6}(?:_N(\d{4}))?_")


@dataclass(frozen=True)
class Place:
    """Where a band is: GDAL's name of the raster, and the band's number in it, counted from 1."""

    path: str
    number: int


@dataclass(frozen=True)
class Product:
    """What the name and the metadata of a Sentinel-2 product say.

    Attributes:
        level: `L1C` or `L2A`; empty where nothing says it.
        baseline: Processing baseline, e.g. 400; None where nothing says it. 9999 is that of reprocessing by users.
        offsets: What is added to the digital numbers of each band, by the metadata; empty where there are none.
    """

    level: str = ""
    baseline: int | None = None
    offsets: tuple[tuple[str, float], ...] = ()


def find(path: str, wanted: Sequence[str], order: Sequence[str] = ()) -> dict[str, Place]:
    """The places of the bands wanted, in that order.

    Args:
        path: A raster of all bands, or a folder or zip of single-band files with the bands in their names, however deep.
        order: The bands of a raster that does not name them.

    Raises:
        UserError: A band is missing or stands in two files, or it cannot be told which band is which.
    """
    if Path(path).is_dir() or path.lower().endswith(".zip"):
        files = _listed(path)
        found = _by_name(path, files)
        rasters = [name for name in files if name.lower().endswith(tuple(f".{suffix}" for suffix in _SUFFIXES))]
        if not found and len(rasters) == 1:
            found = _in_raster(f"{_prefix(path)}{rasters[0]}", order)
        if not found:
            raise UserError(f"{path}: no file is named after a band, such as B02.tif, T32UQD_B8A_20m.jp2 or S1_VV.tif")
    else:
        if not path.startswith("/vsi") and not Path(path).exists():
            raise UserError(f"{path}: no such file")
        found = _in_raster(path, order)
    if missing := [band for band in wanted if band not in found]:
        raise UserError(f"{path}: the model needs band {', '.join(missing)}; there are {', '.join(sorted(found))}")
    return {band: found[band] for band in wanted}


def product(path: str) -> Product:
    """What is known of the Sentinel-2 product that a file, folder or zip is, or is part of."""
    names = _PRODUCT.findall(str(Path(path).absolute()))
    level, baseline = names[-1] if names else ("", "")
    found = Product(level, int(baseline) if baseline else None)
    for name, content in _metadata(path):
        root = ET.fromstring(content)
        texts = {element.tag.rpartition("}")[2]: element.text or "" for element in root.iter()}
        offsets = [e for e in root.iter() if e.tag.rpartition("}")[2] in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")]
        return Product(
            "L2A" if "L2A" in name else "L1C",
            round(100 * float(texts["PROCESSING_BASELINE"])) if texts.get("PROCESSING_BASELINE") else found.baseline,
            tuple((S2_BANDS[int(e.attrib["band_id"])], float(e.text or 0)) for e in offsets)
            or tuple((band, 0.0) for band in S2_BANDS),
        )
    return found


def _listed(path: str) -> list[str]:
    try:
        return sorted(archive.walk(Path(path)))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # zipfile has errors of its own
        raise UserError(f"{path}: cannot be read as a zip ({error})") from error


def _prefix(path: str) -> str:
    return f"{path}/" if Path(path).is_dir() else f"/vsizip/{{{Path(path).absolute()}}}/"


def _by_name(path: str, files: Sequence[str]) -> dict[str, Place]:
    """The files of each band; of a band at several resolutions, the finest (SAFE of L2A)."""
    candidates: dict[str, list[tuple[int, str]]] = {}
    for file in files:
        name = file.rpartition("/")[2]
        match = _BAND_FILE.fullmatch(name)
        if match and not name.startswith("MSK_") and "QI_DATA" not in file.split("/"):  # masks, per band
            candidates.setdefault(match[1].upper(), []).append((int(match[2] or 0), file))
    for band, choices in candidates.items():
        finest = min(choices)[0]
        if len(same := [file for resolution, file in choices if resolution == finest]) > 1:
            raise UserError(f"{path}: two files of band {band}, {same[0]} and {same[1]}; give the folder of one scene")
    return {band: Place(f"{_prefix(path)}{min(choices)[1]}", 1) for band, choices in candidates.items()}


def _in_raster(path: str, order: Sequence[str]) -> dict[str, Place]:
    """The bands of one raster: by the names it carries, else by `order`."""
    descriptions = geotiff.header(path).descriptions
    named = [band_name(text) for text in descriptions]
    if order and len(order) != len(named):
        raise UserError(f"{path}: has {len(named)} bands, {len(order)} are named: {', '.join(order)}")
    if order and all(named) and tuple(order) != tuple(named):
        raise UserError(f"{path}: its bands are called {', '.join(named)}, but {', '.join(order)} was said; leave that out")
    if not order and not any(named):
        raise UserError(
            f"{path} carries no band names, and data sets order their bands differently; give --layout=DATASET, "
            "or --bands=B02,B03,..."
        )
    names = list(order) or named
    if twice := {name for name in names if name and names.count(name) > 1}:
        raise UserError(f"{path}: {', '.join(sorted(twice))} twice among the bands {', '.join(names)}")
    return {name: Place(path, number) for number, name in enumerate(names, 1) if name}


def band_name(text: str) -> str:
    """The band that a description means, `B02` for `B2`, `Band 2` or `B02_10m`; empty where it means none."""
    match = _BAND_NAME.search(text.replace("_", " ").replace("-", " "))
    if not match:
        return ""
    return match[3].upper() if match[3] else f"B{match[1]}A".upper() if match[2] else f"B{int(match[1]):02d}"


def _metadata(path: str):
    """Name and content of the product's metadata file: in the folder or zip, or in the SAFE folder above."""
    place = Path(path)
    if path.lower().endswith(".zip"):
        inside = [name for name in archive.walk(place) if re.fullmatch(r"(.*/)?MTD_MSIL(1C|2A)\.xml", name)]
        yield from ((name, archive.read_bytes(f"{path}/{name}")) for name in inside[:1])
        return
    for folder in (place, *place.absolute().parents):
        for file in sorted(folder.glob("MTD_MSIL*.xml")) if folder.is_dir() else ():
            yield file.name, file.read_bytes()
            return
        if folder.suffix == ".SAFE":
            return
