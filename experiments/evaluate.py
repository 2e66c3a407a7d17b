"""Score a run's best weights on a split."""

from pathlib import Path

from absl import flags

from tfrs import command
from tfrs.errors import UserError

USAGE = """
Score a run's best weights on a split; writes report.json and report.md (report-<split>.* for another than the final split).

  python -m experiments.evaluate --run_dir runs/<run> --split test
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    if not flags.FLAGS.run_dir:
        raise UserError("give the folder of a run with --run_dir")
    command.import_tensorflow()
    from tfrs import evaluate

    scores = evaluate.run(Path(flags.FLAGS.run_dir), flags.FLAGS.split)
    print(evaluate.to_markdown(scores))


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", "", "folder of the run")
    flags.DEFINE_string("split", "test", "train, val or test")
    command.run(main, USAGE)
