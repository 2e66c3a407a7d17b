"""The wire format of `tf.train.Example`, packed and parsed without TensorFlow.

An Example is a map from names to lists of bytes, floats or 64-bit integers. Importing TensorFlow costs seconds and half a
gigabyte in every worker process of a build; packing by hand also writes at memory speed (measured: 1.05-1.5 GB/s against
0.42-0.85 for protobuf with TFRecordWriter) and tells where each raster starts, which random access needs.
"""

import functools
import struct
from collections.abc import Mapping, Sequence

import numpy as np

Value = bytes | memoryview | np.ndarray | Sequence[int]

# Tags of the message fields: (field number << 3) | 2 for "length-delimited".
_FIRST, _SECOND = 0x0A, 0x12
_BYTES, _FLOATS, _INTS = 0x0A, 0x12, 0x1A
_SMALL = 4096  # bytes


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF  # negative integers take the ten bytes of their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack(features: Mapping[str, Value]) -> tuple[list[bytes | memoryview], dict[str, tuple[int, int]]]:
    """Serialise features in the order given.

    Large values are not copied for it: they are the memoryviews that were given. What is small is joined with its neighbours,
    since each chunk costs as much to check and to write as kilobytes.

    Args:
        features: Per name, bytes or a memoryview (a bytes list of one), a float32 array (a float list), or
            integers (an int64 list).

    Returns:
        Chunks to be written one after the other, and per name the span (start, end) of its value in them.
    """
    chunks, small, spans, end = [], [b""], {}, 0
    for name, value in features.items():
        kind, body = _body(value)
        small.append(_before(name, kind, len(body)))
        start = end + len(small[-1])
        end = start + len(body)
        spans[name] = (start, end)
        if len(body) < _SMALL:
            small.append(body)
        else:
            chunks += [b"".join(small), body]
            small = []
    chunks += [b"".join(small)] if small else []
    head = bytes([_FIRST]) + _varint(end)
    chunks[0] = head + chunks[0]
    return chunks, {name: (start + len(head), end + len(head)) for name, (start, end) in spans.items()}


def _body(value: Value) -> tuple[int, bytes | memoryview]:
    """The tag of a value's kind, and its bytes."""
    if isinstance(value, bytes):
        return _BYTES, value
    if isinstance(value, memoryview):
        return _BYTES, value.cast("B")
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        return _FLOATS, value.astype("<f4").tobytes()
    return _INTS, b"".join(_varint(int(v)) for v in value)


@functools.lru_cache(maxsize=4096)  # the same few in all records
def _before(name: str, kind: int, length: int) -> bytes:
    """What stands before the bytes of a value in its map entry."""
    inner = bytes([_FIRST]) + _varint(length)
    feature = bytes([kind]) + _varint(len(inner) + length) + inner
    key = bytes([_FIRST]) + _varint(len(name.encode())) + name.encode() + bytes([_SECOND]) + _varint(len(feature) + length)
    return bytes([_FIRST]) + _varint(len(key) + len(feature) + length) + key + feature


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
