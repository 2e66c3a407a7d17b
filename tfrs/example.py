"""The wire format of `tf.train.Example`, packed and parsed without TensorFlow.

An Example is a map from names to lists of bytes, floats or 64-bit integers. Importing TensorFlow costs seconds and half a
gigabyte in every worker process of a build; packing by hand also writes at memory speed (measured: 1.05-1.5 GB/s against
0.42-0.85 for protobuf with TFRecordWriter) and tells where each raster starts, which random access needs.
"""

import struct
from collections.abc import Mapping, Sequence

import numpy as np

Value = bytes | memoryview | np.ndarray | Sequence[int]

# Tags of the message fields: (field number << 3) | 2 for "length-delimited".
_FIRST, _SECOND = 0x0A, 0x12
_BYTES, _FLOATS, _INTS = 0x0A, 0x12, 0x1A


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF  # negative integers take the ten bytes of their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack(features: Mapping[str, Value]) -> list[bytes | memoryview]:
    """Serialise features in the order given, as chunks to be written one after the other.

    Large values are not copied for it: they are the memoryviews that were given.

    Args:
        features: Per name, bytes or a memoryview (a bytes list of one), a float32 array (a float list), or
            integers (an int64 list).
    """
    chunks = [chunk for name, value in features.items() for chunk in _entry(name.encode(), value)]
    return [bytes([_FIRST]) + _varint(sum(map(len, chunks))), *chunks]


def _entry(name: bytes, value: Value) -> tuple[bytes, bytes | memoryview]:
    """One map entry as everything before its value, and the value's bytes."""
    if isinstance(value, bytes | memoryview):
        kind, body = _BYTES, value if isinstance(value, bytes) else value.cast("B")
    elif isinstance(value, np.ndarray) and value.dtype == np.float32:
        kind, body = _FLOATS, value.astype("<f4").tobytes()
    else:
        kind, body = _INTS, b"".join(_varint(int(v)) for v in value)
    inner = bytes([_FIRST]) + _varint(len(body))
    feature = bytes([kind]) + _varint(len(inner) + len(body)) + inner
    key = bytes([_FIRST]) + _varint(len(name)) + name + bytes([_SECOND]) + _varint(len(feature) + len(body))
    return bytes([_FIRST]) + _varint(len(key) + len(feature) + len(body)) + key + feature, body


def parse(buffer, start: int, end: int) -> dict[str, tuple[int, int] | np.ndarray | list[int]]:
    """Read the Example in `buffer[start:end]` without copying its large values.

    Returns:
        Per name, the span (start, end) of a bytes value in the buffer, a float32 array, or a list of integers.

    Raises:
        ValueError: The bytes are not such an Example.
    """
    try:
        entries = list(_fields(buffer, *_only(buffer, start, end, _FIRST)))
        if any(tag != _FIRST for tag, _ in entries):
            raise ValueError(f"not a tf.train.Example: bad field at byte {start}")
        return dict(_parse_entry(buffer, *span) for _, span in entries)
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error


def _parse_entry(buffer, start: int, end: int):
    parts = dict(_fields(buffer, start, end))
    name = bytes(buffer[slice(*parts[_FIRST])]).decode()
    ((kind, span),) = _fields(buffer, *parts[_SECOND])
    if kind == _BYTES:
        return name, _only(buffer, *span, _FIRST)
    if span[0] < span[1]:  # protobuf leaves out an empty list
        span = _only(buffer, *span, _FIRST)
    if kind == _FLOATS:
        return name, np.frombuffer(bytes(buffer[slice(*span)]), "<f4")
    if kind == _INTS:
        return name, _integers(buffer, *span)
    raise ValueError(f"not a tf.train.Example: feature {name!r} has tag {kind:#x}")


def _fields(buffer, start: int, end: int):
    while start < end:
        tag = buffer[start]
        length, start = _read_varint(buffer, start + 1)
        if tag & 7 != 2 or start + length > end:
            raise ValueError(f"not a tf.train.Example: bad field at byte {start}")
        yield tag, (start, start + length)
        start += length


def _only(buffer, start: int, end: int, tag: int) -> tuple[int, int]:
    fields = list(_fields(buffer, start, end))
    if len(fields) != 1 or fields[0][0] != tag:
        raise ValueError(f"not a tf.train.Example: expected one field {tag:#x} at byte {start}, found {len(fields)}")
    return fields[0][1]


def _read_varint(buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = int(buffer[at])
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _integers(buffer, at: int, end: int) -> list[int]:
    values = []
    while at < end:
        value, at = _read_varint(buffer, at)
        if value >> 64 or at > end:
            raise ValueError(f"not a tf.train.Example: bad integer before byte {at}")
        values.append(value - (1 << 64) if value >> 63 else value)
    return values
