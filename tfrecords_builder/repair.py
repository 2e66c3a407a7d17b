"""Bad shards built again from the source; the manifest's checksums prove that they are what they were."""

import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from tfrecords_builder import lock, metadata, spec
from tfrecords_builder.plan import plan
from tfrecords_builder.verify import Problem
from tfrecords_builder.writer import BUILD, ShardTask, prepare, write_shard
from tfrs import archive, archive_mount, registry
from tfrs.datasets.auxiliary import WithAuxiliary
from tfrs.datasets.base import Dataset
from tfrs.errors import UserError
from tfrs.record_index import index_name, index_shard
from tfrs.records import Records
from tfrs.storage import write_text


def repair(
    records: Records, problems: list[Problem], run: Callable, root: Path | None = None, spool: Path | None = None
) -> None:
    """Replace the shards, index files and files of TFDS that `problems` name; other files are left to the user.

    Args:
        run: As for `writer.write_build`.
        root: Place of the source; where None, that of the build.
        spool: Folder for what is in archives (see `archive_mount.mount`); where None, that of the build.

    A shard takes its place only when it is what the manifest states, which it is not where the source has changed.

    Raises:
        UserError: The source is missing, or its list of patches or the schema is not that of the records.
    """
    bad = {problem.path for problem in problems}
    numbers = {shard: i for split in records.manifest["splits"] for i, shard in enumerate(records.shards(split))}
    folder = records.directory / BUILD
    folder.mkdir(exist_ok=True)
    with lock.hold(folder):
        try:
            if names := [name for name in metadata.tfds_files(records.manifest) if records.directory / name in bad]:
                files = metadata.tfds_files(records.manifest, _dataset(records.manifest).datasheet)
                for name in names:
                    write_text(records.directory / name, files[name])
                    print(f"repaired {name}")
            if shards := [shard for shard in numbers if shard in bad]:
                _shards(records, shards, run, root, spool)
            for split in records.manifest["splits"]:
                if records.directory / index_name(split) in bad:
                    _index(records, split)
        finally:
            shutil.rmtree(folder)


def _shards(records: Records, shards: list[Path], run: Callable, root: Path | None, spool: Path | None) -> None:
    stated = {shard["name"]: shard for split in records.manifest["splits"].values() for shard in split["shards"]}
    names, folder = {shard.name for shard in shards}, (records.directory / BUILD / "repair").absolute()
    tasks = [replace(task, directory=folder) for task in _tasks(records, root, spool) if task.name in names]
    tasks[0].result.parent.mkdir(parents=True, exist_ok=True)
    for task in run(write_shard, tasks, 0):
        built, wanted = task.outcome(), stated[task.name]
        differing = [name for name in ("records", "bytes", "crc32c") if built[name] != wanted[name]]
        if not differing:
            try:
                (folder / task.name).replace(records.directory / task.name)
            except OSError as error:  # such as a folder in its place; the others go on
                print(f"not repaired {task.name}: {error.strerror}")
            else:
                print(f"repaired {task.name}")
            continue
        built, wanted = (", ".join(f"{name} {facts[name]}" for name in differing) for facts in (built, wanted))
        print(
            f"not repaired {task.name}: {archive.origin(task.root)} has changed, built again it has {built}, "
            f"manifest says {wanted}"
        )
    archive_mount.release(tasks[0].root)


def _index(records: Records, split: str) -> None:
    parts = []
    for shard in records.shards(split):
        parts.append(records.directory / BUILD / f"{shard.name}.npy")
        np.save(parts[-1], index_shard(shard, records.schema))
    metadata.merge_index(records.directory / index_name(split), parts, records.schema)
    print(f"repaired {index_name(split)}")


def _tasks(records: Records, root: Path | None, spool: Path | None) -> tuple[ShardTask, ...]:
    """The shards of the build that the manifest describes."""
    stated = records.manifest["spec"]
    if not (place := root or stated.get("input")):
        raise UserError(f"{records.directory}: its manifest does not say where the source is; give it with --input")
    dataset = _dataset(records.manifest)
    spool = spool or records.manifest.get("spool") or records.directory.parent / archive_mount.SPOOL
    root = archive_mount.mount(dataset, Path(place), Path(spool))
    options = {name: value for name, value in stated.items() if name not in ("shard_mb", "patches", "keys")}
    splits = plan(
        dataset,
        root,
        split_files=stated.get("split_file"),
        val_fraction=stated.get("val_fraction"),
        limit=stated.get("limit"),
        seed=stated["seed"],
    )
    build = prepare(dataset, root, records.directory, splits, shard_mb=stated["shard_mb"], options=options)
    if difference := spec.differences(records.manifest, build.head):
        raise UserError(f"{records.directory}: cannot be repaired from {place}, not what it was built from ({difference})")
    return build.tasks


def _dataset(manifest: dict) -> Dataset:
    kind, stated = registry.dataset(manifest["dataset"]), manifest["spec"]
    own = stated.get("base", stated)
    dataset = kind(**{field.name: _tuple(own[field.name]) for field in fields(kind) if field.name in own})
    return WithAuxiliary(dataset, _tuple(stated["layers"])) if "layers" in stated else dataset


def _tuple(value):
    """Lists of a manifest as the tuples that they were."""
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
