"""Train, evaluate and export a network of windows: water, built-up and other per pixel, and the class of the patch."""

from tfrs import command, flags
from tfrs.launch import launch

USAGE = """
Train SatImNet's CNN-dual on 5x5 windows of patches with a label of EuroSAT's classes: for every pixel water, built-up or other,
and the class of its patch. The defaults are those of Syrris et al. 2020, section 3.1.

  python -m experiments.dual --input=s2_10m
  python -m experiments.dual --records=records/fusion --windows=600 --balance_windows
  python -m experiments.dual --task=aggregate --model=cnn_segm --optimizer=adam --learning_rate=0.001

--task=dual has both outputs, --task=aggregate the first only. Masks of water and built-up are layers gsw and esm of the records
(tfrecords_builder --aux gsw=...,esm=...); without them every pixel is of the class of its patch.
An interrupted run continues when the same command is given again; --folds=10 trains and scores each of ten folds.
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    launch("dual")


if __name__ == "__main__":
    flags.define(
        task="dual",
        model="cnn_dual",
        input="s2_10m",
        records="records/eurosat",
        optimizer="sgd",
        learning_rate=0.01,
        decay=0.0,
        batch_size=16,
    )
    command.run(main, USAGE)
