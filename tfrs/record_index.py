"""The index of records: where each lies in its shard, and all of it but the rasters, as one structured array a split."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tfrs.frames import frames, open_shard
from tfrs.schema import Schema


def index_name(split: str) -> str:
    return f"index-{split}.npy"


def index_shard(shard: Path, schema: Schema, number: int = 0) -> np.ndarray:
    """The index of one shard as it is on disk (columns: `index_table`)."""
    data = memoryview(open_shard(shard))  # single bytes of a memory map cost a microsecond each, of a view of it none
    small = [name for name, spec in schema.fields.items() if spec.kind != "raster"]

    def rows():
        for start, end in frames(shard, check=False):
            found = schema.locate(data, start, end)
            yield start, end, found, {name: schema.value(data, name, found[name]) for name in small}

    return index_table(schema, rows(), number)


def index_table(schema: Schema, rows: Iterable[tuple[int, int, Mapping, Mapping]], number: int = 0) -> np.ndarray:
    """The index of one shard: a structured array with a row per record.

    Columns: `shard`, `number` in it, `start` and `end` of the serialised record, `at_<name>` (byte offset in the shard) of
    every raster, `steps_<name>` (length) of every series, and the values of every other field: texts (key, date ...) as bytes,
    labels as multi-hot.

    Args:
        rows: Per record its start and end in the shard, the spans of its rasters there, and its other values.
        number: Of the shard.
    """
    columns: dict[str, list] = {name: [] for name in ("start", "end")}
    for start, end, spans, sample in rows:
        columns["start"].append(start)
        columns["end"].append(end)
        for name, spec in schema.fields.items():
            if spec.kind == "raster":
                first, last = spans[name]
                columns.setdefault(f"at_{name}", []).append(first)
                if spec.series:
                    columns.setdefault(f"steps_{name}", []).append(spec.steps(last - first))
                continue
            value = sample[name]
            if spec.kind == "text":
                value = value.encode()
            elif spec.kind == "labels":
                present = np.zeros(schema.classes(name), np.uint8)
                present[np.asarray(value, np.intp)] = 1
                value = present
            columns.setdefault(name, []).append(value)
    widths = {name: max(map(len, columns.get(name, [])), default=1) for name in schema.texts()}
    table = np.zeros(len(columns["start"]), index_dtype(schema, widths))
    table["shard"], table["number"] = number, np.arange(len(table))
    for name, values in columns.items():
        if values:
            table[name] = values
    return table


def index_dtype(schema: Schema, widths: Mapping[str, int]) -> np.dtype:
    """Columns of an index whose texts have these widths in bytes."""
    columns = [("shard", "<u4"), ("number", "<u4"), ("start", "<u8"), ("end", "<u8")]
    columns += [(f"at_{name}", "<u8") for name, spec in schema.fields.items() if spec.kind == "raster"]
    columns += [(f"steps_{name}", "<u4") for name, spec in schema.fields.items() if spec.series]
    forms = {"label": lambda n: (n, "<i8"), "labels": lambda n: (n, "u1", schema.classes(n))}
    forms["fractions"] = lambda n: (n, "<f4", schema.classes(n))
    forms["vector"] = lambda n: (n, schema.fields[n].stored.str, schema.fields[n].shape)
    forms["text"] = lambda n: (n, f"S{max(widths[n], 1)}")
    columns += [forms[spec.kind](name) for name, spec in schema.fields.items() if spec.kind in forms]
    return np.dtype(columns)


def common_dtype(tables: list[np.ndarray], schema: Schema) -> np.dtype:
    """Columns wide enough for the texts of several indexes."""
    return index_dtype(schema, {name: max((t.dtype[name].itemsize for t in tables), default=1) for name in schema.texts()})


def concatenate(parts: list[np.ndarray], schema: Schema) -> np.ndarray:
    """Index tables as one, wide enough for the longest texts."""
    dtype = common_dtype(parts, schema)
    return np.concatenate([np.zeros(0, dtype), *(part.astype(dtype) for part in parts)])
