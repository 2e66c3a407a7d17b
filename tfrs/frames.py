"""TFRecord frames: length, CRC of it, data, CRC of the data; read from memory-mapped shards."""

import functools
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from tfrs.errors import UserError

_MASK = 0xA282EAD8
_POLYNOMIAL, _ONE = 0x82F63B78, 1 << 31  # of CRC32C, and x^0; coefficients from the highest bit down
HEAD, FOOT = 12, 4  # bytes of a frame before and after the data


def crc32c(chunk: bytes | memoryview, before: int = 0) -> int:
    """CRC of a chunk, after others whose CRC is `before`."""
    # It takes no memoryview itself.
    return google_crc32c.extend(before, chunk if isinstance(chunk, bytes) else np.frombuffer(chunk, np.uint8))


def joined(before: int, crc: int, length: int) -> int:
    """CRC of all bytes from the CRC of the last so many of them and that of those before, as zlib's crc32_combine does.

    A byte of zeros multiplies a CRC by x^8, a polynomial over GF(2), modulo that of CRC32C.
    """
    return _product(before, _power(length)) ^ crc


def _product(a: int, b: int) -> int:
    """Of two polynomials; the highest bit is the coefficient of x^0."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@functools.lru_cache(maxsize=4096)  # records of a data set have few lengths
def _power(length: int) -> int:
    """x^8 to the power of `length`."""
    power, square = _ONE, _ONE >> 8
    while length:
        if length & 1:
            power = _product(power, square)
        square = _product(square, square)
        length >>= 1
    return power


def _masked(crc: int) -> bytes:
    """A CRC as TFRecord has it."""
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def frame(chunks: Sequence[bytes | memoryview], before: int = 0) -> tuple[list[bytes | memoryview], int]:
    """A TFRecord frame around data in chunks, and the CRC of a file that ends with it.

    Args:
        before: CRC of what stands before it.

    Returns:
        Head (length and its CRC) with the first chunk, the others, CRC of the data; and the file's CRC, for which the data are
        not read again.
    """
    size, crc = 0, 0
    for chunk in chunks:
        size, crc = size + len(chunk), crc32c(chunk, crc)
    length = struct.pack("<Q", size)
    head, foot = length + _masked(crc32c(length)), _masked(crc)
    return [head + chunks[0], *chunks[1:], foot], crc32c(foot, joined(crc32c(head, before), crc, size))


def frames(shard: Path, *, check: bool = True):
    """Yield (start, end) of the data of every frame of a shard.

    Args:
        check: Also compare the CRC of the data, which reads every byte.

    Raises:
        UserError: The file is truncated or a CRC does not match; names the file and the record.
    """
    data = memoryview(open_shard(shard))
    at = number = 0
    while at < len(data):
        head = bytes(data[at : at + HEAD])
        if len(head) < HEAD:
            raise UserError(f"{shard}: record {number}: the file ends within the frame (truncated)")
        (length,) = struct.unpack("<Q", head[:8])
        if head[8:] != _masked(crc32c(head[:8])):
            raise UserError(f"{shard}: record {number}: CRC of the length does not match")
        start, end = at + HEAD, at + HEAD + length
        if end + FOOT > len(data):
            raise UserError(f"{shard}: record {number}: the file ends within the frame (truncated)")
        if check and data[end : end + FOOT] != _masked(crc32c(data[start:end])):
            raise UserError(f"{shard}: record {number}: CRC of the data does not match")
        yield start, end
        at, number = end + FOOT, number + 1


def open_shard(path: Path) -> np.ndarray:
    """A shard as a read-only memory-mapped array of bytes."""
    if not os.path.getsize(path):
        return np.zeros(0, np.uint8)  # an empty file cannot be mapped
    return np.memmap(path, np.uint8, "r").view(np.ndarray)  # a slice of a memmap costs 1.2 us, of this 0.2
