"""What stands beside the shards: manifest, index, quarantine list, and the files of TensorFlow Datasets."""

import json
import shutil
from pathlib import Path

import numpy as np

from tfrecords_builder import quarantine
from tfrs import record_index, records
from tfrs.datasets.base import Dataset
from tfrs.errors import UserError
from tfrs.schema import Schema
from tfrs.statistics import BandStatistics
from tfrs.storage import replacing, write_text


def write_json(path: Path, content: dict) -> None:
    """Write JSON so that the file is either whole or not there."""
    write_text(path, _json(content))


def _json(content: dict) -> str:
    return json.dumps(content, indent=1) + "\n"


def finish(dataset: Dataset, directory: Path, tasks: list, head: dict) -> None:
    """Merge the results of all shards in shard order; the manifest comes last and makes the records valid.

    Raises:
        UserError: Not one patch was good.
    """
    results = [task.outcome() for task in tasks]
    bad = [line for result in results for line in result["quarantine"]]
    if not any(result["records"] for result in results):
        first = bad[0]
        shutil.rmtree(directory)
        raise UserError(f"none of {len(bad)} patches could be read; the first, {first['path']}: {first['reason']}")

    splits = {}
    for split in dict.fromkeys(task.split for task in tasks):
        members = [(task, result) for task, result in zip(tasks, results, strict=True) if task.split == split]
        index = merge_index(directory / record_index.index_name(split), [task.index for task, _ in members], dataset.schema)
        splits[split] = {
            "records": len(index),
            "shards": [
                {"name": task.name, **{k: result[k] for k in ("records", "bytes", "crc32c")}} for task, result in members
            ],
            "classes": class_counts(index, dataset.schema) | pixel_counts([result["pixels"] for _, result in members]),
        }
    merged = {sensor.name: BandStatistics.empty(len(sensor.bands)) for sensor in dataset.sensors}
    for result in results:
        for name, form in result["statistics"].items():
            merged[name] = merged[name].merge(BandStatistics.from_lists(form))

    manifest = {
        **head,
        "splits": splits,
        "quarantined": len(bad),
        "statistics": {sensor.name: merged[sensor.name].to_json(sensor) for sensor in dataset.sensors},
    }
    quarantine.write(directory / records.QUARANTINE, bad)
    for name, text in tfds_files(manifest, dataset.datasheet).items():
        write_text(directory / name, text)
    write_json(directory / records.MANIFEST, manifest)


def class_counts(index: np.ndarray, schema) -> dict[str, list]:
    """Per label field, records per class; per fractions field, the mean fraction of each class."""
    counts = {}
    for name, spec in schema.fields.items():
        if spec.kind == "label":
            counts[name] = np.bincount(index[name], minlength=schema.classes(name)).tolist()
        elif spec.kind == "labels":
            counts[name] = index[name].sum(axis=0, dtype=np.int64).tolist()
        elif spec.kind == "fractions":
            counts[name] = (index[name].sum(axis=0, dtype=np.float64) / max(len(index), 1)).tolist()
    return counts


def pixel_counts(shards: list[dict]) -> dict[str, list[int]]:
    """Per map, pixels per class, from those of each shard."""
    return {name: np.sum([counts[name] for counts in shards], axis=0).tolist() for name in shards[0]}


def merge_index(path: Path, parts: list[Path], schema) -> np.ndarray:
    """Join the shards' index tables on disk, so that memory does not grow with the data set."""
    tables = [np.load(part, mmap_mode="r") for part in parts]
    dtype = record_index.common_dtype(tables, schema)
    # Written in sequence: a memory map would meet a full disk with a bus error.
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (sum(map(len, tables)),)}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for number, table in enumerate(tables):
            part = table.astype(dtype)
            part["shard"] = number
            file.write(part.tobytes())
    return np.load(path, mmap_mode="r") if header["shape"][0] else np.zeros(0, dtype)


def tfds_files(manifest: dict, description: str = "") -> dict[str, str]:
    """The files of TensorFlow Datasets by name: all of them follow from the manifest, but for the description."""
    schema = Schema.from_json(manifest["schema"])
    info = {
        "name": manifest["dataset"],
        "version": manifest["version"],
        "description": description,
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": name,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(sum(shard["bytes"] for shard in split["shards"])),
                "shardLengths": [str(shard["records"]) for shard in split["shards"]],
            }
            for name, split in manifest["splits"].items()
        ],
    }
    labels = {
        f"{name}.labels.txt": "\n".join(schema.scheme(name).classes) + "\n"
        for name, spec in schema.fields.items()
        if spec.kind in ("label", "labels")
    }
    return {"dataset_info.json": _json(info), "features.json": _json(schema.tfds_features()), **labels}
