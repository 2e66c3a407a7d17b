"""Train, evaluate and export a scene classifier."""

from tfrs import command, flags

USAGE = """
Train a scene classifier on records, score it on their test split and export it.

  python -m experiments.classify --model=resnet50 --input=s2_ms
  python -m experiments.classify --flagfile=runs/<run>/flags.txt

The run's folder holds flags.txt, checkpoints/, tensorboard/, history.csv, report.json, report.md, figures and export/.
An interrupted run continues when the same command is given again.
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    command.import_tensorflow()
    from tfrs import train

    scores = train.run(flags.experiment(), "classify")
    print(", ".join(f"{name} {value:.4f}" for name, value in scores.items()))


if __name__ == "__main__":
    flags.define()
    command.run(main, USAGE)
