"""What an exported model says of one patch."""

from pathlib import Path

from absl import flags

from tfrs import command
from tfrs.errors import UserError

USAGE = """
Print the class probabilities of one patch, by an exported model; of a model that labels pixels, write the map.

  python -m experiments.predict --export runs/<run>/export --scene s2=PATH[,s1=PATH] --layout sen12ms
  python -m experiments.predict --export runs/<run>/export --scene s2=PATH --layout multisenge --output map.tif
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    scene = command.pairs("scene", flags.FLAGS.scene, "sensor=path, e.g. s2=patch.tif")
    command.import_tensorflow()
    from tfrs.predict import SEGMENTATION, check_output, predict, read_card, write_map

    export, output = Path(flags.FLAGS.export), flags.FLAGS.output
    card = read_card(export)
    dense = card["task"] == SEGMENTATION
    if dense != bool(output):
        raise UserError(
            "this model labels pixels; give the map's file with --output, e.g. map.tif"
            if dense
            else "this model classifies whole patches; it makes no map for --output"
        )
    if dense:
        check_output(Path(output), card["classes"], scene.values())
    probabilities, place = predict(export, scene, flags.FLAGS.layout)
    if dense:
        shares = write_map(Path(output), probabilities, card["classes"], place).tolist()
        print(f"{output}: {probabilities.shape[1]}x{probabilities.shape[2]} pixels")
    else:
        shares = probabilities.tolist()
    for i in sorted(range(len(shares)), key=lambda i: -shares[i]):
        chosen = not dense and (shares[i] >= 0.5 if card["task"] == "multi_label" else shares[i] == max(shares))
        if shares[i] or not dense:
            print(f"{shares[i]:7.1%}  {card['classes'][i]['name']}{'  <-' if chosen else ''}")


if __name__ == "__main__":
    flags.DEFINE_string("export", "", "folder of the exported model")
    flags.DEFINE_list("scene", [], "raster of each sensor: s2=PATH[,s1=PATH]")
    flags.DEFINE_string("layout", "", "data set whose band order the files have, where they carry no band names")
    flags.DEFINE_string("output", "", "map of a model that labels pixels: .tif or .png, with the classes' colours")
    command.run(main, USAGE)
