"""Train a grid of runs, one after the other, and compare them in one table."""

from pathlib import Path

from absl import flags

from tfrs import command
from tfrs.errors import UserError
from tfrs.flags import define, given

USAGE = """
Train a run for every combination of the values of --grid, and write one table: sweep.md and sweep.csv in --run_dir.
Every other flag is one of the experiment's. Runs that differ only in seed (or fold) are repetitions: the table has their
mean, standard deviation and a bootstrapped 95 % interval of the mean.

  python -m experiments.sweep --records=records/sen12ms --grid learning_rate=1e-3,1e-4 --grid input=s2_ms,s1s2 --grid seed=0,1
  python -m experiments.sweep --experiment=segment --flagfile=settings.flags --grid input=irrg,irrg_index

An interrupted sweep continues when the same command is given again; a longer --grid adds runs to it.
"""
KINDS = ("classify", "segment", "dual")


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    from tfrs import sweep

    values = flags.FLAGS
    # Only what was given: the defaults are those of the experiment's own command.
    fixed = {name: text for name, text in given().items() if name != "run_dir"}
    varied = sweep.parse_grid(values.grid)
    if both := sorted(set(fixed) & set(varied)):
        raise UserError(f"--{both[0]} is given, and stands in --grid too; leave out one of them")
    if "folds" in fixed and "fold" not in {**fixed, **varied}:
        raise UserError("--folds in a sweep: say which with --fold, or add --grid fold=0,1,2 for repetitions")
    print(sweep.run(Path(values.run_dir or f"runs/sweep-{values.experiment}"), values.experiment, fixed, varied))


if __name__ == "__main__":
    define()
    flags.DEFINE_enum("experiment", KINDS[0], KINDS, "the command that trains: experiments.<name>")
    flags.DEFINE_multi_string("grid", [], "setting=value,value,...; once for each setting that varies")
    command.run(main, USAGE)
