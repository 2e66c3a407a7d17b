"""Train, evaluate and export a scene classifier."""

from tfrs import command, flags
from tfrs.launch import launch

USAGE = """
Train a scene classifier on records, score it on their test split and export it.

  python -m experiments.classify --model=resnet50 --input=s2_ms
  python -m experiments.classify --flagfile=runs/<run>/flags.txt

The run's folder holds flags.txt, checkpoints/, tensorboard/, history.csv, report.json, report.md, figures and export/.
An interrupted run continues when the same command is given again; --folds=10 trains and scores each of ten folds.
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    launch("classify")


if __name__ == "__main__":
    flags.define()
    command.run(main, USAGE)
