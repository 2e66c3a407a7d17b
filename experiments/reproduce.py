"""Train the runs of a paper's table and print its numbers beside ours."""

from pathlib import Path

from absl import flags

from tfrs import command, reproduce

USAGE = """
Train the runs of a published table, and print the paper's numbers beside those that come out.

  python -m experiments.reproduce --table=satimnet4                    # on records/fusion
  python -m experiments.reproduce --table=sen12ms4 --records=records/sen12ms --scale=0.05
  python -m experiments.reproduce --table=multisenge4 --set encoder_weights=none --set batch_size=4

--scale multiplies epochs and windows. An interrupted table continues when the same command is given again.
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    given = flags.FLAGS
    _, records = reproduce.TABLES[given.table]
    changes = command.pairs("set", given.set, "name=value, a flag of the command that trains")
    command.import_tensorflow()
    folder = Path(given.run_dir or f"runs/reproduce-{given.table}-{given.scale:g}")
    print(reproduce.run(given.table, given.records or records, folder, given.scale, changes))


if __name__ == "__main__":
    flags.DEFINE_enum("table", next(iter(reproduce.TABLES)), list(reproduce.TABLES), "the table")
    flags.DEFINE_string("records", "", "folder of the records (default: records/fusion, records/sen12ms, records/multisenge)")
    flags.DEFINE_float("scale", 1.0, "factor of epochs and windows", lower_bound=1e-6)
    flags.DEFINE_multi_string("set", [], "name=value: a setting in place of the table's, e.g. batch_size=4")
    flags.DEFINE_string("run_dir", "", "folder of the runs and of table.md (default: runs/reproduce-<table>-<scale>)")
    command.run(main, USAGE)
