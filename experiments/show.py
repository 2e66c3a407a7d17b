"""Look at patches of records, and at what augmentations make of them."""

from pathlib import Path

from absl import flags

from tfrs import command
from tfrs.experiment import Experiment

USAGE = """
Draw patches of records with their labels and maps and, in the rows below, as training with these augmentations sees them.

  python -m experiments.show --records records/sen12ms
  python -m experiments.show --records records/sen12ms --augment dihedral,rotate:30,speckle --epoch 3
  python -m experiments.show --records records/eurosat --keys River_12,Forest_7 --augment resized_crop:64,cutmix
  python -m experiments.show --records records/sen12ms --where "label=Forest|Wetlands,scene=ROIs1158_spring_*"

The same --input, --seed and --epoch draw what training draws for a record; only its neighbour (mixup, cutmix) is another.
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    given = flags.FLAGS
    from tfrs import contact_sheet, plots, selection
    from tfrs.records import Records
    from tfrs.storage import replacing

    records, output = selection.where(Records(given.records), given["where"].value), Path(given.output)
    numbers = contact_sheet.choose(records, given.split, count=given.count, keys=given["keys"].value, seed=given.seed)
    figure, text = contact_sheet.show(
        records,
        given.split,
        numbers,
        inputs=given.input,
        augment=given.augment,
        date=given.date,
        seed=given.seed,
        epoch=given.epoch,
    )
    with replacing(output) as temporary, open(temporary, "wb") as file:
        plots.save(figure, file)
    print(f"{text}\n{output}")


if __name__ == "__main__":
    settings = Experiment.__dataclass_fields__
    flags.DEFINE_string("records", Experiment.records, settings["records"].metadata["help"])
    flags.DEFINE_string("split", "train", "train, val or test")
    flags.DEFINE_string("input", "", "bands to read, as of experiments.classify; empty: all")
    flags.DEFINE_integer("count", 8, "number of patches, drawn with --seed", lower_bound=1)
    flags.DEFINE_list("keys", [], "patches to show instead, by their keys")
    flags.DEFINE_list("where", [], settings["where"].metadata["help"])
    flags.DEFINE_list("augment", [], settings["augment"].metadata["help"])
    flags.DEFINE_string("date", "", "records of series, one image of each: first, or random by --seed and --epoch")
    flags.DEFINE_integer("seed", 0, "seed of the choice and of the augmentations", lower_bound=0)
    flags.DEFINE_integer("epoch", 0, "epoch of training whose augmentations are shown, counted from 0", lower_bound=0)
    flags.DEFINE_string("output", "patches.png", "file for the figure")
    command.run(main, USAGE)
