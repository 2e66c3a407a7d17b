"""Maps of scenes against the model's own speed, and their memory: python -m benchmarks.scene --scene S2=FOLDER --export DIR

The real scene is mirrored to a larger one. Each export maps it in a process of its own, which first and last runs the model
on windows in memory: the ratio of both speeds is the one claim, the peak of resident memory the other. With --windows, a model
that labels pixels also maps the scene itself in other windows, to see how many labels change.
"""

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_list("scene", [], "sensor=path of the scene to mirror, as for experiments.predict")
flags.DEFINE_multi_string("export", [], "folder of an exported model; may be repeated")
flags.DEFINE_float("scale", 0.25, "side of the scene as a share of a Sentinel-2 tile's 10,980 pixels")
flags.DEFINE_float("white", None, "as for experiments.predict")
flags.DEFINE_string("data", None, "folder for the mirrored scene, kept for the next run (default: a temporary one)")
flags.DEFINE_list("windows", [], "other windows to compare a model that labels pixels with, by size:overlap")

TILE = 10_980
SPEED, MEMORY_GB = 0.85, 3.0
SECONDS = 10  # of the model in memory, before and after


def mirrored(places: dict, folder: Path, side: int) -> Path:
    """The scene's bands as files, mirrored to `side` pixels of 10 m, tiled and compressed as tiles come."""
    import numpy as np
    import rasterio

    folder = folder / f"mirrored-{side}"
    for band, place in places.items():
        target = folder / f"{band}.tif"
        if target.exists():
            continue
        folder.mkdir(exist_ok=True)
        with rasterio.open(place.path) as source:
            values, profile = source.read(place.number), source.profile
        size = round(side * 10 / profile["transform"].a)
        index = np.arange(size) % (2 * len(values))
        index = np.where(index < len(values), index, 2 * len(values) - 1 - index)
        tiles = {"tiled": True, "blockxsize": 1024, "blockysize": 1024, "compress": "deflate", "predictor": 2, "zlevel": 1}
        form = {**profile, **tiles, "width": size, "height": size}
        with rasterio.open(f"{target}.tmp", "w", **form) as file:
            for top in range(0, size, 1024):
                part = values[index[top : top + 1024]][:, index]
                file.write(part, 1, window=rasterio.windows.Window(0, top, size, len(part)))
        os.replace(f"{target}.tmp", target)
    return folder


def measure(export: str, paths: dict, white: float | None, output: str) -> dict:
    """Windows per second of the model in memory and of a map, and the peak of memory; in a fresh process."""
    from tfrs import command

    command.import_tensorflow()
    from tfrs import predict
    from tfrs.scene import Reading, find_scene, opened
    from tfrs.scene_values import Said

    model, tiling = predict.load(Path(export)), predict.Tiling()
    reading = Reading({}, said=Said(white=white))
    scene = find_scene(paths, model.card, reading)
    rows, columns = predict.axes(model, scene, tiling)
    count = len(rows.starts) * len(columns.starts)
    with opened(scene) as read:
        size = min(rows.size, scene.grid.height)
        images, _ = read(0, 0, size, size)
    together = predict.batch_size(tiling, rows)
    batch = {name: image[None].repeat(together, 0) for name, image in images.items()}
    model.run(batch)

    def in_memory() -> float:
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS:
            model.run(batch)
            done += together
        return done / (time.perf_counter() - start)

    before = in_memory()
    start = time.perf_counter()
    predict.map_scene(model, paths, Path(output), reading, tiling, predict.Wanted())
    speed = count / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    own = (before + in_memory()) / 2
    return {"windows": count, "size": rows.size, "own": own, "speed": speed, "ratio": speed / own, "gigabytes": peak}


def labels(export: str, paths: dict, white: float | None, output: str, windows: list) -> dict:
    """Share of pixels whose label differs from that of the default windows, by window."""
    import numpy as np

    from tfrs import command

    command.import_tensorflow()
    from tfrs import geotiff, predict
    from tfrs.scene import Reading
    from tfrs.scene_values import Said

    model, maps = predict.load(Path(export)), {}
    for text in ["", *windows]:
        size, _, overlap = text.partition(":")
        tiling = predict.Tiling(int(size), int(overlap)) if text else predict.Tiling()
        predict.map_scene(model, paths, Path(output), Reading({}, said=Said(white=white)), tiling, predict.Wanted())
        maps[text] = geotiff.read(output).data
    return {text: float(np.mean(maps[text] != maps[""])) for text in windows}


def fresh_processes() -> ProcessPoolExecutor:
    """Each task in a process of its own: memory of one does not count in the next."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)


def main(_) -> int:
    from tfrs.scene_source import find

    side, failed = round(FLAGS.scale * TILE), False
    given = dict(text.split("=") for text in FLAGS.scene)
    print(f"{side}x{side} pixels, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as temporary, fresh_processes() as pool:
        data, output = Path(FLAGS.data or temporary), f"{temporary}/map.tif"
        for export in FLAGS.export:
            card = json.loads((Path(export) / "card.json").read_text())
            paths = {name: str(mirrored(find(path, card["inputs"][name]["bands"]), data, side)) for name, path in given.items()}
            found = pool.submit(measure, export, paths, FLAGS.white, output).result()
            slow, large = found["ratio"] < SPEED, found["gigabytes"] > MEMORY_GB
            print(
                f"{card['model']}: {found['windows']} windows of {found['size']}, {found['speed']:.2f} a second; in memory "
                f"{found['own']:.2f}; ratio {found['ratio']:.2f} ({'FAILS' if slow else 'ok'}: {SPEED}); peak "
                f"{found['gigabytes']:.2f} GiB ({'FAILS' if large else 'ok'}: {MEMORY_GB:g})"
            )
            failed |= slow or large
            if FLAGS.windows and "row" in card["output"]["layout"]:
                changed = pool.submit(labels, export, given, FLAGS.white, output, FLAGS.windows).result()
                shares = ", ".join(f"{share:.2%} with {window}" for window, share in changed.items())
                print(f"  other labels than with the default windows, on the scene itself: {shares}")
    return int(failed)


if __name__ == "__main__":
    app.run(lambda arguments: sys.exit(main(arguments)))
