"""Train, evaluate and export a model that labels every pixel."""

from tfrs import command, flags
from tfrs.experiment import SEGMENT
from tfrs.launch import launch

USAGE = """
Train a segmentation model on records with maps of classes, score it on their test split and export it.
The defaults are those of Wenger et al. 2022, Table 2.

  python -m experiments.segment --model=unet_vgg16 --input=irrg
  python -m experiments.segment --model=unet_vgg16 --input=irrg_index --scheme=multisenge_urban
  python -m experiments.segment --records=records/sen12ms --input=s1s2 --ignore=Savanna --label_smoothing=0.1

The run's folder holds flags.txt, checkpoints/, tensorboard/, history.csv, report.json, report.md, figures and export/.
An interrupted run continues when the same command is given again; --folds=10 trains and scores each of ten folds.
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    launch(SEGMENT)


if __name__ == "__main__":
    flags.define(
        task="segmentation",
        model="unet_vgg16",
        input="irrg",
        records="records/multisenge",
        class_weights="balanced",
        learning_rate=1e-4,
        decay=0.0,
        batch_size=8,
        epochs=100,
        patience=100,
    )
    command.run(main, USAGE)
