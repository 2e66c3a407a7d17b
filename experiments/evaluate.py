"""Score a run's best weights on a split."""

from pathlib import Path

from absl import flags

from tfrs import command
from tfrs.errors import UserError
from tfrs.selection import HELP as WHERE

USAGE = """
Score a run's best weights on a split; writes report.json and report.md (report-<split>.* for another than the final split,
report-part.* with --where).

  python -m experiments.evaluate --run_dir runs/<run> --split test
  python -m experiments.evaluate --run_dir runs/<run> --where "scene=ROIs1158_spring_*"
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    if not flags.FLAGS.run_dir:
        raise UserError("give the folder of a run with --run_dir")
    command.import_tensorflow()
    from tfrs import evaluate

    scores = evaluate.run(Path(flags.FLAGS.run_dir), flags.FLAGS.split, flags.FLAGS["where"].value)
    print(evaluate.to_markdown(scores))


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", "", "folder of the run")
    flags.DEFINE_string("split", "test", "train, val or test")
    flags.DEFINE_list("where", [], f"score a part of the split: {WHERE}")
    command.run(main, USAGE)
