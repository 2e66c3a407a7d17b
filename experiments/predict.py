"""What an exported model says of one patch, or maps of whole scenes."""

import sys
from pathlib import Path

from absl import flags

from tfrs import command, termination
from tfrs.errors import UserError

USAGE = """
Maps of scenes by an exported model: each pixel by a model that labels pixels, one pixel per patch by a model that classifies
patches. Without --output, print the class probabilities of one patch.

A scene is a raster, VRT, zip or folder (Sentinel-2 SAFE, or single-band files such as B02.tif) for each sensor:

  python -m experiments.predict --export runs/<run>/export --scene s2=S2A_MSIL1C_....SAFE --output map.tif
  python -m experiments.predict --export runs/<run>/export --scene s2=s2.tif,s1=s1.tif,mask=clouds.tif --output map.tif
  python -m experiments.predict --export runs/<run>/export --scene_list scenes.txt --output maps/
  python -m experiments.predict --export runs/<run>/export --scene s2=PATCH,s1=PATCH --layout sen12ms
"""


def main(arguments: list[str]) -> None:
    command.no_arguments(arguments)
    given = flags.FLAGS
    scenes = [_scene(text) for text in [*given.scene, *_lines(given.scene_list)]]
    if not scenes:
        empty = f"{given.scene_list} has no scene" if given.scene_list else "nothing to predict"
        raise UserError(f"{empty}; give --scene s2=PATH[,s1=PATH]")
    command.import_tensorflow()
    from tfrs import predict
    from tfrs.scene import MASK, Reading
    from tfrs.scene_values import Said

    model = predict.load(Path(given.export), given.head)
    said = Said(given.s2_offset, given.s2_scale, given.s1_linear, given.white)
    reading = Reading(_bands(given.bands), given.layout, given.resampling, given.aoi, said)
    if not given.output:
        if model.dense or len(scenes) > 1:
            what = "this model labels pixels" if model.dense else "of several scenes there are maps only"
            raise UserError(f"{what}; give the map's file with --output, e.g. map.tif")
        _print_patch(model.card, predict.predict(model, predict.find_scene(scenes[0], model.card, reading)))
        return
    if given.mask:
        scenes = [{MASK: given.mask, **scene} for scene in scenes]
    wanted = predict.Wanted(given.probabilities, given.uncertainty, given.occlude)
    tiling = predict.Tiling(given.window, given.overlap, given.stride, given.batch_size)
    failed = 0
    with termination.immediate("interrupted; maps are whole or not there, run the same command again"):
        for path, scene in predict.outputs(Path(given.output), scenes).items():
            try:
                _print_map(path, predict.map_scene(model, scene, path, reading, tiling, wanted), model.card)
            except (UserError, OSError) as error:
                if len(scenes) == 1:
                    raise
                print(f"error: {error}", file=sys.stderr)
                failed += 1
    if failed:
        raise UserError(f"{failed} of {len(scenes)} scenes failed, see above; the maps of the others are in {given.output}")


def _scene(text: str) -> dict[str, str]:
    return command.pairs("scene", text.split(","), "sensor=path, e.g. s2=scene.tif")


def _lines(path: str) -> list[str]:
    """The scenes of a list file."""
    try:
        lines = Path(path).read_text().splitlines() if path else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text; --scene_list takes a file with a scene a line, e.g. s2=scene.tif") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _bands(text: str) -> dict[str, list[str]]:
    """`B02,B03` of the only sensor, or `s2:B02,B03+s1:VV,VH`."""
    parts = [part.rpartition(":") for part in text.split("+")] if text else []
    return {name: listed.split(",") for name, _, listed in parts}


def _print_patch(card: dict, probabilities) -> None:
    shares = probabilities.tolist()
    for i in sorted(range(len(shares)), key=lambda i: -shares[i]):
        chosen = shares[i] >= 0.5 if card["task"] == "multi_label" else shares[i] == max(shares)
        print(f"{shares[i]:7.1%}  {card['classes'][i]['name']}{'  <-' if chosen else ''}")


def _print_map(path: Path, made, card: dict) -> None:
    for line in made.notes:
        print(f"note: {line}")
    print(f"{path}: {made.grid.height}x{made.grid.width} pixels")
    shares = made.shares.tolist()
    if not any(shares):
        print("no pixel has data")
    for i in sorted(range(len(shares)), key=lambda i: -shares[i]):
        if shares[i]:
            print(f"{shares[i]:7.1%}  {card['classes'][i]['name']}")


if __name__ == "__main__":
    flags.DEFINE_string("export", "", "folder of the exported model")
    flags.DEFINE_string("head", "", "output of a model that has several; default: the first")
    flags.DEFINE_multi_string(
        "scene", [], "raster, folder or zip of each sensor: s2=PATH[,s1=PATH][,mask=PATH]; may be repeated"
    )
    flags.DEFINE_string("scene_list", "", "file with one scene a line, written as for --scene")
    flags.DEFINE_string(
        "output", "", "map, .tif or .png, with the classes' colours; of several scenes, the folder of their maps"
    )
    flags.DEFINE_string("bands", "", "bands of rasters that do not name theirs: B02,B03,... or s2:B02,B03+s1:VV,VH")
    flags.DEFINE_string("layout", "", "data set whose band order the files have, instead of --bands")
    flags.DEFINE_string(
        "resampling", "", "how bands come to the finest grid: nearest, bilinear or cubic; default: as in training"
    )
    flags.DEFINE_float("s2_offset", None, "added to Sentinel-2's digital numbers: -1000 from baseline 04.00 on, 0 before")
    flags.DEFINE_float("s2_scale", None, "reflectance times this is the digital number: 10000", lower_bound=0)
    flags.DEFINE_bool("s1_linear", False, "Sentinel-1 is linear backscatter, not decibels")
    flags.DEFINE_float("white", None, "digital number of 255, for models of 8-bit images: 2750 for EuroSAT RGB", lower_bound=1)
    flags.DEFINE_string("mask", "", "raster that is not 0 where there is to be no map, e.g. a cloud mask")
    flags.DEFINE_string("aoi", "", "GeoJSON with the polygons to map, in EPSG:4326")
    flags.DEFINE_integer(
        "window", None, "side of the windows in pixels; default: 512, or the patches' if larger", lower_bound=1
    )
    flags.DEFINE_integer("overlap", None, "of windows in pixels; default: a quarter", lower_bound=0)
    flags.DEFINE_integer("stride", None, "pixels from one patch to the next; default: the patches' side", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "windows at a time; default: half a million pixels", lower_bound=1)
    flags.DEFINE_bool("probabilities", False, "write those of all classes, <map>_probabilities.tif")
    flags.DEFINE_bool("uncertainty", False, "write the entropy of the probabilities, <map>_uncertainty.tif")
    flags.DEFINE_string("occlude", "", "map what each 'sensor' or each 'band' contributes, <map>_occlusion.tif and .csv")
    command.run(main, USAGE)
