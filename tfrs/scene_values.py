"""From a scene's values to those that a model takes: checked on a sample, and corrected only as was said or is stated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfrs.errors import UserError
from tfrs.geotiff import Header
from tfrs.scene_source import Product
from tfrs.sensors import DECIBEL, sentinel2

DIGITAL_NUMBER = sentinel2().unit
OFFSET = -1000.0  # of processing baseline 04.00 and later: digital numbers are reflectance x 10,000 + 1000
EUROSAT_WHITE = 2750  # digital number of 255 in EuroSAT RGB. Measured: 1 + DN * 254 / 2750 is its JPEG within 0.1 on average
_LEVELS = {"sen12ms": "L1C", "eurosat": "L1C", "eurosat_rgb": "L1C", "bigearthnet": "L2A", "bigearthnet_v2": "L2A"}
_LEVELS |= {"multisenge": "L2A"}


@dataclass(frozen=True)
class Said:
    """What the user says of a scene's values; None and False where nothing is said.

    Attributes:
        s2_offset: Added to Sentinel-2's digital numbers, -1000 or 0.
        s2_scale: Reflectance times this is the digital number.
        s1_linear: Sentinel-1 is linear backscatter.
        white: The digital number that a display image shows as 255.
    """

    s2_offset: float | None = None
    s2_scale: float | None = None
    s1_linear: bool = False
    white: float | None = None


NOTHING = Said()


@dataclass(frozen=True)
class Conversion:
    """Values of a scene -> values of the model: `scale` times the value plus the band's `offset`, or decibels.

    Attributes:
        dtype: Pixel type of the model.
        nodata: Value of pixels without data in the model; None where its sensor has none.
        absent: Value of pixels without data in the scene, NaN always being one; None where it declares none.
        offset: One per band.
    """

    dtype: str
    nodata: float | None
    absent: float | None
    offset: tuple[float, ...]
    scale: float = 1.0
    decibels: bool = False

    @property
    def changes(self) -> bool:
        return self.scale != 1 or any(self.offset) or self.decibels


def missing(values: np.ndarray, absent: float | None) -> np.ndarray:
    """Pixels (H, W) of an image (C, H, W) that have no data: `absent` in all bands, or NaN in one."""
    none = (values == absent).all(axis=0) if absent is not None else np.zeros(values.shape[1:], bool)
    return none | np.isnan(values).any(axis=0) if values.dtype.kind == "f" else none


def convert(values: np.ndarray, conversion: Conversion) -> tuple[np.ndarray, np.ndarray]:
    """An image (C, H, W) in the model's dtype, and which pixels (H, W) have data.

    A pixel with data does not become one without: digital numbers are at least 1, as ESA's own products have it.
    """
    known = ~(missing(values, conversion.absent) | missing(values, conversion.nodata))
    kind = np.dtype(conversion.dtype)
    if values.dtype == kind and not conversion.changes:
        image = values
    elif conversion.decibels:
        with np.errstate(divide="ignore", invalid="ignore"):
            image = 10 * np.log10(np.where(values > 0, values, np.nan)).astype(kind)
        known &= ~np.isnan(image).any(axis=0)
    else:
        image = values.astype(np.float32)
        image *= np.float32(conversion.scale)
        image += np.float32(conversion.offset)[:, None, None]
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            np.rint(image, out=image)
            np.clip(image, max(limits.min, 1 if conversion.nodata == 0 else 0), limits.max, out=image)
        with np.errstate(invalid="ignore"):  # NaN, which is not known and gets a value below
            image = image.astype(kind)
    if not known.all():
        fill = np.nan if kind.kind == "f" else conversion.nodata or 0
        image = np.where(known, image, kind.type(fill))
    return image, known


def plain(sensor: Mapping, header: Header) -> Conversion:
    """The conversion that changes no value.

    Args:
        sensor: Entry of the card: bands, dtype, unit, nodata.
        header: Of the raster of its first band.
    """
    absent = sensor["nodata"] if header.nodata is None else header.nodata
    if absent is None and np.dtype(header.dtype).kind == "f":
        absent = np.nan
    return Conversion(sensor["dtype"], sensor["nodata"], absent, (0.0,) * len(sensor["bands"]))


def conversion(
    where: str, sensor: Mapping, plain: Conversion, sample: np.ndarray, product: Product, said: Said
) -> tuple[Conversion, list[str]]:
    """How values become the model's, and what the user must be told of it.

    Args:
        where: The scene's path, for messages.
        sensor: Entry of the card.
        plain: What changes no value.
        sample: Values (C, N) of pixels with data, spread over the scene.

    Raises:
        UserError: The values are not of the model's unit, and nothing says how they are to be corrected.
    """
    if not sample.size:
        return plain, [f"{where}: no data where the values were to be checked; they are taken as {sensor['unit']}"]
    if sensor["unit"] == DECIBEL:
        return _decibels(where, plain, sample, said)
    if sensor["unit"] == DIGITAL_NUMBER:
        return _digital_numbers(where, plain, sensor["bands"], sample, product, said)
    return _display(where, plain, sensor, sample, said)


def level_note(where: str, product: Product, dataset: str) -> list[str]:
    """A line where the scene is of another processing level than the data the model learned from."""
    learned = _LEVELS.get(dataset, "")
    if not product.level or product.level == learned or not learned:
        return []
    words = {"L1C": "top of atmosphere (L1C)", "L2A": "surface (L2A)"}
    return [
        f"{where}: reflectance at the {words[product.level]}, the model learned from {dataset} at the {words[learned]}; "
        "expect more errors, above all where blue and haze matter"
    ]


def _decibels(where: str, plain: Conversion, sample: np.ndarray, said: Said) -> tuple[Conversion, list[str]]:
    negative = float((sample < 0).mean())
    if said.s1_linear:
        if negative > 0.01:
            raise UserError(
                f"{where}: {negative:.0%} of the values are negative, so they are no linear backscatter; leave out --s1_linear"
            )
        return replace(plain, decibels=True), [f"{where}: linear backscatter, converted to decibels"]
    if negative < 0.5:  # of real dB, nearly all are: VV averages -12, VH -18
        raise UserError(
            f"{where}: values (median {np.median(sample):.3g}, {negative:.0%} negative) look like linear backscatter; "
            "the model takes decibels; give --s1_linear to convert them"
        )
    return plain, []


def _digital_numbers(
    where: str, plain: Conversion, bands: Sequence[str], sample: np.ndarray, product: Product, said: Said
) -> tuple[Conversion, list[str]]:
    high = float(np.percentile(sample, 99.9))
    scale, notes = 1.0, []
    if said.s2_scale:
        scale, notes = said.s2_scale, [f"{where}: values times {said.s2_scale:g}"]
    elif high <= 10:  # snow and glint exceed reflectance 1
        raise UserError(
            f"{where}: values up to {high:.3g} look like reflectance; the model takes digital numbers; give --s2_scale=10000"
        )
    elif high <= 255:
        raise UserError(f"{where}: values up to {high:.0f} look like a display image; the model takes {DIGITAL_NUMBER}")
    if scale * high > 65535:
        raise UserError(f"{where}: values up to {scale * high:.0f} are beyond 65,535; the model takes {DIGITAL_NUMBER}")
    offset, why = _offset(where, scale * sample, bands, product, said)
    notes += [f"{where}: {why}"] if any(offset) else []
    return replace(plain, offset=offset, scale=scale), notes


def _offset(
    where: str, sample: np.ndarray, bands: Sequence[str], product: Product, said: Said
) -> tuple[tuple[float, ...], str]:
    """What is to be added to each band, and why."""
    if said.s2_offset is not None:
        return (said.s2_offset,) * len(bands), f"{said.s2_offset:+g} to digital numbers (--s2_offset)"
    low = float(np.percentile(sample, 0.1, axis=1).min())  # of the darkest band: water, shadow
    below = f"the darkest of its pixels {'are' if low < -OFFSET else 'are not'} below 1000"
    if product.offsets:
        table = dict(product.offsets)
        offset = tuple(table.get(band, 0.0) for band in bands)
        return offset, f"{min(offset):+g} to digital numbers, as the product's metadata say"
    later = product.baseline is not None and 400 <= product.baseline < 9999
    if later and low >= -OFFSET:
        return (OFFSET,) * len(bands), f"{OFFSET:+g} to digital numbers (baseline {product.baseline / 100:05.2f})"
    if later:
        raise UserError(
            f"{where}: processing baseline {product.baseline / 100:05.2f} adds 1000 to digital numbers, but {below}: "
            "it may have been taken off already; give --s2_offset=0 or --s2_offset=-1000"
        )
    if low >= -OFFSET and (product.baseline is None or product.baseline == 9999):
        raise UserError(
            f"{where}: {below}, as in products of baseline 04.00 and later, which add 1000; give --s2_offset=-1000, or "
            "--s2_offset=0 if the ground is that bright"
        )
    return (0.0,) * len(bands), ""


def _display(where: str, plain: Conversion, sensor: Mapping, sample: np.ndarray, said: Said) -> tuple[Conversion, list[str]]:
    if said.white:
        stretched = replace(plain, offset=(1.0,) * len(sensor["bands"]), scale=254 / said.white)
        return stretched, [f"{where}: digital numbers 0 to {said.white:g} shown as 1 to 255"]
    if (high := float(sample.max())) > 255 or sample.dtype != sensor["dtype"]:
        raise UserError(
            f"{where}: {sample.dtype} values up to {high:.4g}; the model takes {sensor['unit']} ({sensor['dtype']}); of "
            f"Sentinel-2's digital numbers, give --white={EUROSAT_WHITE}, the stretch of EuroSAT RGB"
        )
    return plain, []
