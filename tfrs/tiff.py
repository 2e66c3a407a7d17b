"""Plain TIFF read without GDAL: strips of one image, the form in which patches are published.

rasterio costs 0.5 ms per file before the first pixel, more than everything else that is done to a small patch. What is here
understands few files and is sure of them; it answers None to all others, damaged ones included, and GDAL has its say on them.
Compressed strips (LZW, deflate) are decoded by imagecodecs where that is installed; else Python's zlib inflates small patches.
What gains nothing that way stays with GDAL.
Tags are those of TIFF 6.0 (Adobe, 1992) and of OGC GeoTIFF 1.1 (19-008r4), section 7.
"""

import functools
import math
import re
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, BANDS, ROWS_PER_STRIP, STRIP_BYTES, PLANAR, EXTRA, FORMAT = 273, 277, 278, 279, 284, 338, 339
PREDICTOR, PIXEL_SCALE, TIEPOINT, MATRIX = 317, 33550, 33922, 34264
GEO_KEYS, GEO_DOUBLES, GEO_TEXT = 34735, 34736, 34737
GDAL_METADATA, GDAL_NODATA = 42112, 42113

_ASCII, _SHORT, _LONG, _DOUBLE = 2, 3, 4, 12
_INTEGER = {_SHORT: "H", _LONG: "I"}
_BYTES = {1: 1, _ASCII: 1, _SHORT: 2, _LONG: 4, 5: 8, _DOUBLE: 8}
_STRIPS, _VALUES = (STRIP_OFFSETS, STRIP_BYTES, ROWS_PER_STRIP), (BITS, FORMAT, COMPRESSION, PREDICTOR, PHOTOMETRIC, EXTRA)
_LAYOUT = (WIDTH, HEIGHT, BANDS, PLANAR, *_STRIPS, *_VALUES)
# Tags that change neither pixels nor place: names, dates, software, resolution in print, range of values.
_HARMLESS = (269, 271, 272, 280, 281, 282, 283, 296, 305, 306, 315, 316, 33432)
# Tag -> its types. With any other tag or type, a file is not plain.
_TAGS = dict.fromkeys(_HARMLESS, tuple(_BYTES)) | dict.fromkeys(_LAYOUT, tuple(_INTEGER)) | {GEO_KEYS: (_SHORT,)}
_TAGS |= dict.fromkeys((PIXEL_SCALE, TIEPOINT, MATRIX, GEO_DOUBLES), (_DOUBLE,))
_TAGS |= dict.fromkeys((GEO_TEXT, GDAL_METADATA, GDAL_NODATA), (_ASCII,))
_LARGEST_TAG = 1 << 16  # bytes: what tags say is remembered
_NONE, _LZW, _DEFLATE = 1, 5, (8, 32946)
_CACHED = 1 << 18  # bytes turned from pixels into bands at a time; measured: SEN12MS a third faster than as a whole
# Bytes of pixels up to which decoding here is faster than GDAL, opening included. Measured: zlib on SEN12MS 10-24 % slower;
# LZW of its 1.7 MB of Sentinel-2 12.6 ms against 9.4, of 0.5 MB 2.8 for both.
_LARGEST_ZLIB, _LARGEST_LZW = 1 << 18, 1 << 20
_KINDS = {1: "u", 2: "i", 3: "f"}
_TYPES = {"u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"}
_RASTER_TYPE, _PIXEL_IS_AREA = 1025, 1
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_NUMBER = re.compile(rb"-?\d{1,15}(\.\d{1,15})?")
_ITEM = rb' <Item((?: [a-z]+="[\w .:-]+")+)>([!#-%\'-;=?-~]+(?: [!#-%\'-;=?-~]+)*)?</Item>\n'
_METADATA = re.compile(rb"<GDALMetadata>\n(?: " + _ITEM + rb")*</GDALMetadata>\n?\0*")
_DESCRIPTION = re.compile(rb' name="DESCRIPTION" sample="(\d{1,5})" role="description"')


class Plain(NamedTuple):
    """What a plain file says.

    Attributes:
        data: Pixels (C, H, W) in native byte order; read-only where they are a view of the file's bytes.
        transform: As `geotiff.Raster.transform`.
        geokeys: The tags that hold the CRS, equal where it is; empty where there is none.
        nodata: The declared nodata value.
        descriptions: Band names, empty strings where there are none.
    """

    data: np.ndarray
    transform: tuple[float, ...]
    geokeys: tuple
    nodata: float | None
    descriptions: tuple[str, ...]


class _NotPlain(Exception):
    pass


def read(content: bytes) -> Plain | None:
    """A plain TIFF from the bytes of its file; None where it is anything else."""
    try:
        return _read(content)
    except (_NotPlain, struct.error, zlib.error):
        return None


def _read(content: bytes) -> Plain:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    _require(order)
    (at,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, at)
    end = at + 2 + 12 * count
    # An image, and no overview, mask or page after it.
    _require(struct.unpack_from(order + "I", content, end) == (0,))
    directory = content[at + 2 : end]
    _, outside, furthest = _places(directory, order)
    _require(furthest <= len(content))
    layout, rest = _said(directory, order, tuple([content[start:end] for _, start, end in outside]))
    return Plain(layout.pixels(content), *rest)


@functools.lru_cache(maxsize=64)  # bands of a patch say the same, where each has a file
def _said(directory: bytes, order: str, values: tuple[bytes, ...]) -> tuple["_Layout", tuple]:
    """What tags say, from the directory and the values outside of it: where the pixels are, and the rest of `Plain`."""
    inside, outside, _ = _places(directory, order)
    tags = inside | {code: value for (code, _, _), value in zip(outside, values, strict=True)}
    # What says where the pixels are is the same in all files of one size from one writer, and costs most to interpret.
    layout = _layout(directory, order, tuple(map(tags.get, _LAYOUT)))
    return layout, (
        _transform(tags, order),
        _geokeys(tags, order),
        _nodata(tags.get(GDAL_NODATA), layout.dtype),
        _descriptions(tags.get(GDAL_METADATA, b""), layout.shape[0]),
    )


def _require(condition) -> None:
    if not condition:
        raise _NotPlain


@functools.lru_cache(maxsize=256)
def _places(directory: bytes, order: str) -> tuple[dict[int, bytes], tuple[tuple[int, int, int], ...], int]:
    """Values of the tags that stand in the directory; of the others (tag, start, end) in the file; and the furthest end."""
    inside, outside, last = {}, [], 0
    for code, kind, count, value in struct.iter_unpack(order + "HHI4s", directory):
        _require(code > last and kind in _TAGS.get(code, ()) and count)
        size = count * _BYTES[kind]
        _require(size <= _LARGEST_TAG)
        if size <= 4:
            inside[code] = value[:size]
        else:
            (at,) = struct.unpack(order + "I", value)
            outside.append((code, at, at + size))
        last = code
    return inside, tuple(outside), max((end for _, _, end in outside), default=0)


@dataclass(frozen=True)
class _Layout:
    """Where the pixels are: strips of whole rows, of all bands together or (planar) of one after the other."""

    dtype: np.dtype
    shape: tuple[int, int, int]
    planar: bool
    runs: tuple[tuple[int, int], ...]  # start and end of strips, those that follow each other as one if not compressed
    end: int  # of the furthest
    compression: int
    decoded: tuple[int, ...]  # sizes of the pixels of compressed strips
    predicted: bool  # each pixel is stored as its difference from the one before it in its row

    @functools.cached_property
    def native(self) -> np.dtype:
        return self.dtype.newbyteorder("=")

    def pixels(self, content: bytes) -> np.ndarray:
        _require(self.end <= len(content))
        bands, height, width = self.shape
        parts = [memoryview(content)[start:end] for start, end in self.runs]
        if self.decoded:
            parts = [_decode(part, size, self.compression) for part, size in zip(parts, self.decoded, strict=True)]
        data = np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), self.dtype)
        if self.predicted:
            rows = data.astype(self.native).reshape(-1, width, 1 if self.planar else bands)
            data = np.cumsum(rows, axis=1, dtype=rows.dtype)
        if self.planar or bands == 1:
            return data.reshape(self.shape).astype(self.native, copy=False)
        image, pixels = np.empty(self.shape, self.native), data.reshape(height, width, bands)
        rows = max(1, _CACHED // pixels[0].nbytes)
        for row in range(0, height, rows):
            image[:, row : row + rows] = pixels[row : row + rows].transpose(2, 0, 1)
        return image


@functools.cache
def _codecs():
    """imagecodecs, None where it is not installed. Its import takes longer than that of NumPy, so plain files do without."""
    try:
        import imagecodecs
    except ModuleNotFoundError:
        return None
    return imagecodecs


def _largest(compression: int) -> float:
    if _codecs():
        return _LARGEST_LZW if compression == _LZW else math.inf
    return _LARGEST_ZLIB if compression in _DEFLATE else 0


def _decode(strip: memoryview, size: int, compression: int) -> bytes:
    """A strip of so many bytes, a checksum compared where it has one; never more, whatever a damaged one says."""
    if codecs := _codecs():
        decode = codecs.lzw_decode if compression == _LZW else codecs.deflate_decode
        try:
            content = decode(strip, out=size)
        except RuntimeError as error:
            raise _NotPlain from error
        _require(len(content) == size)
        return content
    inflater = zlib.decompressobj()
    content = inflater.decompress(strip, size)
    _require(len(content) == size and not inflater.decompress(inflater.unconsumed_tail, 1) and inflater.eof)
    return content


@functools.lru_cache(maxsize=256)
def _layout(directory: bytes, order: str, values: tuple[bytes | None, ...]) -> _Layout:
    kinds = {code: kind for code, kind, _, _ in struct.iter_unpack(order + "HHI4s", directory)}
    tags = {
        code: struct.unpack(f"{order}{len(value) // _BYTES[kinds[code]]}{_INTEGER[kinds[code]]}", value)
        for code, value in zip(_LAYOUT, values, strict=True)
        if value
    }
    single = {code: value[0] for code, value in tags.items() if len(set(value)) == 1}
    _require({WIDTH, HEIGHT, BITS, PHOTOMETRIC} <= single.keys() and {STRIP_OFFSETS, STRIP_BYTES} <= tags.keys())
    width, height, bands = single[WIDTH], single[HEIGHT], single.get(BANDS, 1)
    planar, per_strip = single.get(PLANAR, 1), min(single.get(ROWS_PER_STRIP, height), height)
    kind = f"{_KINDS.get(single.get(FORMAT, 1))}{single[BITS] / 8:g}"
    _require(
        single.get(COMPRESSION, _NONE) in (_NONE, _LZW, *_DEFLATE)
        and single[PHOTOMETRIC] in (1, 2)
        and planar in (1, 2)
        and kind in _TYPES
    )
    _require(
        width and height and bands and per_strip and all(code in single for code in tags.keys() - {STRIP_OFFSETS, STRIP_BYTES})
    )
    _require(len(tags[BITS]) == bands and len(tags.get(FORMAT, (1,))) in (1, bands))
    _require(len(tags.get(EXTRA, ())) in (0, bands - (3 if single[PHOTOMETRIC] == 2 else 1)) and single.get(EXTRA, 0) <= 2)

    dtype = np.dtype(order + kind)
    row = width * dtype.itemsize * (bands if planar == 1 else 1)
    planes = 1 if planar == 1 else bands
    # Before anything is made of that size: the tags of a damaged file may say anything.
    _require(len(tags[STRIP_OFFSETS]) == len(tags[STRIP_BYTES]) == -(-height // per_strip) * planes)
    rows = [per_strip] * (height // per_strip) + [height % per_strip] * (height % per_strip > 0)
    sizes = tuple(row * number for number in rows) * planes
    compression, predictor = single.get(COMPRESSION, _NONE), single.get(PREDICTOR, 1)
    compressed = compression != _NONE
    _require(min(tags[STRIP_OFFSETS]) >= 8 and (min(tags[STRIP_BYTES]) > 0 if compressed else tags[STRIP_BYTES] == sizes))
    _require(not compressed or sum(sizes) <= _largest(compression))
    _require(predictor == 1 or (predictor == 2 and compressed and dtype.kind != "f"))
    runs: list[tuple[int, int]] = []
    for start, size in zip(tags[STRIP_OFFSETS], tags[STRIP_BYTES], strict=True):
        begin = runs.pop()[0] if runs and runs[-1][1] == start and not compressed else start
        runs.append((begin, start + size))
    decoded = sizes if compressed else ()
    return _Layout(
        dtype,
        (bands, height, width),
        planar == 2,
        tuple(runs),
        max(end for _, end in runs),
        compression,
        decoded,
        predictor == 2,
    )


def _transform(tags: dict[int, bytes], order: str) -> tuple[float, ...]:
    scale, tie, matrix = map(tags.get, (PIXEL_SCALE, TIEPOINT, MATRIX))
    if matrix:
        _require(len(matrix) == 128 and not scale and not tie)
        a, b, _, c, d, e, _, f, *_ = struct.unpack(order + "16d", matrix)
    elif scale or tie:
        _require(scale and tie and (len(scale), len(tie)) == (24, 48))  # one tie point, not ground control points
        a, minus_e, _, column, row, _, x, y, _ = struct.unpack(order + "9d", scale + tie)
        _require(a > 0 and minus_e > 0)
        b, c, d, e, f = 0.0, x - column * a, 0.0, -minus_e, y + row * minus_e
    else:
        return IDENTITY
    _require(a and e and math.isfinite(a + b + c + d + e + f))
    return a, b, c, d, e, f


def _geokeys(tags: dict[int, bytes], order: str) -> tuple:
    if GEO_KEYS not in tags:
        # Numbers without a CRS are rare, and GDAL has opinions on them.
        _require(not {PIXEL_SCALE, TIEPOINT, MATRIX, GEO_DOUBLES, GEO_TEXT} & tags.keys())
        return ()
    _require(_is_area(tags[GEO_KEYS], order))
    return order, *map(tags.get, (GEO_KEYS, GEO_DOUBLES, GEO_TEXT))


@functools.lru_cache(maxsize=256)
def _is_area(keys: bytes, order: str) -> bool:
    """Whether a transform means corners of pixels: GDAL moves a raster of points by half a pixel."""
    _require(len(keys) % 8 == 0)
    return any((key, value) == (_RASTER_TYPE, _PIXEL_IS_AREA) for key, _, _, value in struct.iter_unpack(order + "4H", keys))


def _nodata(text: bytes | None, dtype: np.dtype) -> float | None:
    if text is None:
        return None
    text = text.rstrip(b"\0")
    _require((text == b"nan" and dtype.kind == "f") or _NUMBER.fullmatch(text))
    value = float(text)
    if dtype.kind != "f":
        _require(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max and value.is_integer())
    else:
        _require(math.isnan(value) or float(dtype.type(value)) == value)  # GDAL rounds it to the type of the pixels
    return value


@functools.lru_cache(maxsize=256)
def _descriptions(metadata: bytes, bands: int) -> tuple[str, ...]:
    names = [""] * bands
    _require(not metadata or _METADATA.fullmatch(metadata))
    for attributes, text in re.findall(_ITEM, metadata):
        _require(b"IMAGE_STRUCTURE" not in attributes.upper())
        if b"description" in attributes.lower():
            number = _DESCRIPTION.fullmatch(attributes)
            _require(number and int(number[1]) < bands)
            names[int(number[1])] = text.decode()
    return tuple(names)
