"""Segment the patches that a classifier calls water or built-up."""

from pathlib import Path

from absl import flags

from tfrs import command
from tfrs.errors import UserError

USAGE = """
Run a segmenter after a classifier, as SatImNet's CNN-segm after CNN-class: only patches called water or built-up are segmented,
in all others every pixel is Other. Scores the pair on a split of records; writes report.json, report.md and patches.png.

  python -m experiments.cascade --records=records/eurosat --classifier=runs/A/export --segmenter=runs/B/export
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    given = flags.FLAGS
    if not (given.classifier and given.segmenter):
        raise UserError("give the exports of two runs with --classifier and --segmenter")
    command.import_tensorflow()
    from tfrs import cascade, evaluate
    from tfrs.records import Records

    output = Path(given.output)
    scores = cascade.run(Path(given.classifier), Path(given.segmenter), Records(given.records), given.split, output)
    print(evaluate.to_markdown(scores))
    print(f"{scores['segmented_patches']:,} of {scores['patches']:,} patches segmented; {output / 'report.md'}")


if __name__ == "__main__":
    flags.DEFINE_string("records", "records/eurosat", "folder of the records")
    flags.DEFINE_string("split", "test", "train, val or test")
    flags.DEFINE_string("classifier", "", "export of a run of experiments.classify, e.g. with cnn_class")
    flags.DEFINE_string("segmenter", "", "export of a run of experiments.dual, e.g. with cnn_segm")
    flags.DEFINE_string("output", "runs/cascade", "folder of the report")
    command.run(main, USAGE)
