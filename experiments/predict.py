"""Class probabilities of one patch from an exported model."""

from pathlib import Path

from absl import flags

from tfrs import command

USAGE = """
Print the class probabilities of one patch, by an exported model.

  python -m experiments.predict --export runs/<run>/export --scene s2=PATH[,s1=PATH] --layout sen12ms
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    scene = command.pairs("scene", flags.FLAGS.scene, "sensor=path, e.g. s2=patch.tif")
    command.import_tensorflow()
    from tfrs.predict import predict, read_card

    export = Path(flags.FLAGS.export)
    multi_label = read_card(export)["task"] == "multi_label"
    probabilities = predict(export, scene, flags.FLAGS.layout)
    best = max(probabilities, key=probabilities.get)
    for name, probability in sorted(probabilities.items(), key=lambda item: -item[1]):
        chosen = probability >= 0.5 if multi_label else name == best
        print(f"{probability:7.1%}  {name}{'  <-' if chosen else ''}")


if __name__ == "__main__":
    flags.DEFINE_string("export", "", "folder of the exported model")
    flags.DEFINE_list("scene", [], "raster of each sensor: s2=PATH[,s1=PATH]")
    flags.DEFINE_string("layout", "", "data set whose band order the files have, where they carry no band names")
    command.run(main, USAGE)
