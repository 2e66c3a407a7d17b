"""The command: build records from a data set, check them, and show what is in them."""

import dataclasses
import functools
import importlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

from tfrecords_builder import MAX_BAD_FRACTION, SHARD_MB, options
from tfrs import command, registry
from tfrs.errors import UserError, unknown
from tfrs.termination import held, immediate

USAGE = f"""
Build records (TFRecord shards with a manifest) from a data set, check them, and show what is in them.

  python -m tfrecords_builder --dataset NAME [flags]  write them to <output>/<dataset>/<version>
  python -m tfrecords_builder verify RECORDS          read every record again and compare it with the manifest;
                                                      --repair builds bad shards again
  python -m tfrecords_builder show RECORDS            print sensors, fields, splits, class counts, statistics per band
  python -m tfrecords_builder stats RECORDS           draw the class distribution into RECORDS

An interrupted build continues when the same command is given again.

Data sets: {", ".join(registry.DATASETS)}.
"""

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", None, "name of the data set to build")
flags.DEFINE_string(
    "input", None, "the data set as published: a folder, unpacked or with archives, or an archive (default: data/<dataset>)"
)
flags.DEFINE_string(
    "spool", None, "folder for what is in a tar.gz or tar.zst while a build runs (default: .archives beside the records)"
)
flags.DEFINE_string("output", "records", "folder for records of all data sets")
flags.DEFINE_list(
    "split_file",
    [],
    "train=FILE,val=FILE,test=FILE: patch names of each split, one a line, in place of the data set's own splits; "
    "'rest' as FILE stands for all patches in no other",
)
flags.DEFINE_float("val_fraction", None, "draw val at random from train and val together, this share of them")
flags.DEFINE_list(
    "aux", [], "name=FILE,...: rasters in any CRS that become dense layers on each patch's grid; FILE may be a VRT or a pattern"
)
flags.DEFINE_integer("synthesize", None, "first write this many simulated patches into --input", lower_bound=1)
flags.DEFINE_float("shard_mb", SHARD_MB, "size of a shard in megabytes, approximately", lower_bound=0.001)
flags.DEFINE_integer("workers", os.cpu_count(), "processes; the bytes written do not depend on it", lower_bound=1)
flags.DEFINE_integer("seed", 0, "seed of splits, of the order of records and of simulated patches", lower_bound=0)
flags.DEFINE_integer("limit", None, "at most this many patches per split", lower_bound=1)
flags.DEFINE_bool("overwrite", False, "remove records that are already there and build again")
flags.DEFINE_float(
    "max_bad_fraction",
    MAX_BAD_FRACTION,
    "stop when more than this share of all patches (and more than 10 patches) cannot be read; 0: at the first, 1: never",
    lower_bound=0,
    upper_bound=1,
)
for _name in ("shard_mb", "max_bad_fraction"):  # NaN is below no bound
    flags.register_validator(_name, math.isfinite, "give a number")
flags.DEFINE_enum("runner", "local", ["local", "beam"], "local: --workers processes of this machine; beam: Apache Beam")
flags.DEFINE_string("beam_options", "", "options of Beam, e.g. '--runner=FlinkRunner --flink_master=host:8081' (direct runner)")
flags.DEFINE_integer("task_index", None, "write only the shards of this task, counted from 0, of --task_count", lower_bound=0)
flags.DEFINE_integer(
    "task_count",
    None,
    "tasks of a batch scheduler that share the shards; without --task_index: write the manifest once all have ended",
    lower_bound=1,
)
flags.DEFINE_bool("repair", False, "verify: build bad shards and indexes again; the source is where it was, or --input")


def main(arguments: list[str]) -> None:
    """Build, or run the sub-command that `arguments` name."""
    if not arguments:
        build()
        return
    name, *directories = arguments
    if FLAGS.dataset:
        raise UserError(f"{' '.join(arguments)!r} stands beside --dataset; a build takes flags only, a sub-command no data set")
    if name not in SUBCOMMANDS:
        raise unknown("sub-command", name, SUBCOMMANDS)
    if len(directories) != 1:
        raise UserError(f"{name} wants one folder of records, such as records/sen12ms, and got {len(directories)}")
    if name == "verify":
        _begin()
    from tfrs.records import Records

    SUBCOMMANDS[name](Records(directories[0]))


def build() -> None:
    """Write the records that the flags ask for and print a summary."""
    _check_flags()
    _begin()
    planned = _planned()
    from tfrecords_builder import shares, writer
    from tfrecords_builder.show import summary
    from tfrs import archive_mount

    already = None if FLAGS.overwrite else writer.complete(planned)
    before, start = 0 if FLAGS.overwrite else _megabytes(planned.directory), time.monotonic()
    if FLAGS.task_index is not None and not already:
        shares.write_share(planned, FLAGS.task_index, FLAGS.task_count, _runner())
        shards = len(shares.share(planned, FLAGS.task_index, FLAGS.task_count))
        print(f"{planned.directory}: the {shards} shards of task {FLAGS.task_index} of {FLAGS.task_count} are there")
        return
    if already:
        records, said = already, "already built: nothing to do"
    elif FLAGS.task_count:
        records, said = shares.finish_shares(planned, FLAGS.task_count), f"{FLAGS.task_count} tasks finished"
    else:
        records = writer.write_build(planned, _runner(), overwrite=FLAGS.overwrite)
        seconds, megabytes = time.monotonic() - start, _megabytes(planned.directory) - before
        said = f"wrote {megabytes:.1f} MB in {seconds:.1f} s ({megabytes / seconds:.1f} MB/s)"
    archive_mount.release(planned.tasks[0].root)
    print(f"{planned.directory}: {said}")
    print(summary(records))
    if already and records.manifest["quarantined"]:
        print("the patches in quarantine were not tried again; --overwrite builds anew")
    for split in planned.dataset.splits:
        if split not in records.manifest["splits"] or not records.count(split):
            print(f"warning: no patch in split {split}", file=sys.stderr)


def _begin() -> None:
    """Import what takes long, and where there will be workers, let them do so meanwhile."""
    from tfrecords_builder import local

    if FLAGS.workers > 1 and FLAGS.runner == "local":
        local.start()
    with held():  # NumPy and rasterio lose what a handler of signals raises while they are imported
        importlib.import_module("numpy.random")
        importlib.import_module("tfrecords_builder.writer")


def _check_flags() -> None:
    """Refuse flags that cannot stand together."""
    if not FLAGS.dataset:
        raise UserError(f"nothing to do; give --dataset ({', '.join(registry.DATASETS)}) or {', '.join(SUBCOMMANDS)}")
    if FLAGS.repair:
        raise UserError("--repair belongs to the sub-command verify; an interrupted build continues by itself")
    if FLAGS.beam_options and FLAGS.runner != "beam":
        raise UserError("--beam_options without --runner=beam")
    if FLAGS.task_index is not None and not FLAGS.task_count:
        raise UserError(f"--task_index={FLAGS.task_index} needs --task_count, the number of tasks")
    if FLAGS.task_index is not None and FLAGS.task_index >= FLAGS.task_count:
        raise UserError(
            f"--task_index={FLAGS.task_index} with --task_count={FLAGS.task_count}; tasks count from 0 to that less 1"
        )
    if FLAGS.task_count and (FLAGS.overwrite or FLAGS.synthesize):
        raise UserError(
            "--overwrite and --synthesize cannot be shared by tasks (--task_count); remove records, or simulate, beforehand"
        )


def _planned():
    """The `writer.Build` that the flags ask for."""
    split_files = command.pairs("split_file", FLAGS.split_file, "split=file, e.g. train=train.txt,val=val.txt,test=rest")
    dataset = options.create(registry.dataset(FLAGS.dataset), seed=FLAGS.seed)
    from tfrecords_builder.plan import plan
    from tfrecords_builder.simulate import is_simulated, simulate
    from tfrecords_builder.writer import prepare
    from tfrs import archive_mount
    from tfrs.records import MANIFEST

    place, directory = Path(FLAGS.input or f"data/{dataset.name}"), Path(FLAGS.output) / dataset.name / dataset.version
    if FLAGS.synthesize:
        simulate(dataset, place, FLAGS.synthesize, FLAGS.seed)
    already = (directory / MANIFEST).exists() and not FLAGS.overwrite
    root = archive_mount.mount(dataset, place, Path(FLAGS.spool or directory.parent / archive_mount.SPOOL), unpack=not already)
    dataset = dataset.at(root)
    if FLAGS.aux:
        from tfrs.datasets import auxiliary

        layers = command.pairs("aux", FLAGS.aux, "name=path, e.g. gsw=GSW.tif,esm=ESM/*.tif")
        dataset = auxiliary.WithAuxiliary(dataset, tuple(layers.items()))
    sensors = ", ".join(f"{sensor.name} ({len(sensor.bands)} bands)" for sensor in dataset.sensors)
    print(f"{dataset.name} from {place}: {sensors}")
    made_with = {
        "input": str(place),
        "split_file": split_files,
        "val_fraction": FLAGS.val_fraction,
        "limit": FLAGS.limit,
        "simulated": is_simulated(place) or dataset.simulated(root),
    }
    splits = plan(dataset, root, split_files=split_files, val_fraction=FLAGS.val_fraction, limit=FLAGS.limit, seed=FLAGS.seed)
    for line in (report := dataset.report(root)):
        print(line)
    for reason, count in dataset.left_out(root).items():
        if count:
            print(f"left out: {count} {reason}")
    build = prepare(
        dataset,
        root,
        Path(FLAGS.output),
        splits,
        shard_mb=FLAGS.shard_mb,
        options={"seed": FLAGS.seed, **{name: value for name, value in made_with.items() if value}},
        max_bad_fraction=FLAGS.max_bad_fraction,
    )
    # For `show` and for --repair; no part of the specification, since records do not depend on it.
    beside = {"report": report, "spool": FLAGS.spool}
    return dataclasses.replace(build, head=build.head | {name: value for name, value in beside.items() if value})


def _runner() -> Callable:
    """What writes the shards, as `writer.write_build` wants it."""
    if FLAGS.runner == "beam":
        from tfrecords_builder import beam

        return functools.partial(beam.run, options=FLAGS.beam_options)
    from tfrecords_builder import local

    return functools.partial(local.run, workers=FLAGS.workers)


def _megabytes(directory: Path) -> float:
    return sum(shard.stat().st_size for shard in directory.glob("*.tfrecord-?????-of-?????")) / 1e6


def _verify(records) -> None:
    from tfrecords_builder.verify import verify

    if FLAGS.repair:
        from tfrecords_builder.repair import repair

        verify(records, FLAGS.workers, functools.partial(repair, run=_runner(), root=FLAGS.input, spool=FLAGS.spool))
    else:
        verify(records, FLAGS.workers)


def _show(records) -> None:
    from tfrecords_builder.show import describe

    # As any filter: end without a word when the reader (head, less) has seen enough.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(describe(records))


def _stats(records) -> None:
    from tfrecords_builder.show import draw_class_distribution

    print(draw_class_distribution(records))


SUBCOMMANDS = {"verify": _verify, "show": _show, "stats": _stats}

if __name__ == "__main__":
    with immediate():
        command.run(main, USAGE)
