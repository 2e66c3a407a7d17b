"""What an exported model says of one patch, or of a whole scene; needs the SavedModel and its card only."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfrs import occlusion, scene_windows
from tfrs.errors import UserError, unknown
from tfrs.export import read_card
from tfrs.geotiff import Grid
from tfrs.progress import progress
from tfrs.scene import MASK, Reading, Scene, find_scene, opened
from tfrs.scene_map import Extras, check_output, write_map
from tfrs.scene_windows import Images

PIXELS = 1 << 19  # of a batch of windows: two of 512, whose layers are most of the memory of a U-Net
# Of images and results of a row of windows, of which several are alive at a time. Measured: VGG16's U-Net with 14 classes and
# all layers took 2.5 GiB at a tile's 10,980 columns, with four windows at a time.
ROW_BYTES = 128 << 20
WINDOW = 512  # side of windows of models that take any size, where patches are no larger
DENSE = "(batch, class, row, column)"  # layout of the output of models that label pixels


@dataclass(frozen=True)
class Model:
    """An exported model.

    Attributes:
        card: What it takes and returns.
        run: Images (B, C, H, W) by sensor -> probabilities (B, classes), or (B, classes, H, W) of a model that labels pixels.
        sizes: Height and width that it takes; None where it takes any.
    """

    card: Mapping
    run: Callable[[Images], np.ndarray]
    sizes: tuple[int | None, int | None]

    @property
    def dense(self) -> bool:
        return self.card["output"]["layout"] == DENSE


@dataclass(frozen=True)
class Tiling:
    """How windows lie over a scene, in pixels; None stands for what fits the model.

    Attributes:
        window: Side of the windows of a model that labels pixels.
        overlap: Of windows; see `scene_windows.blended`.
        stride: From one patch to the next of a model that classifies patches, which is the map's pixel.
        batch: Windows at a time.
    """

    window: int | None = None
    overlap: int | None = None
    stride: int | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Wanted:
    """What is to be written beside a map, see `scene_map.Extras`; `occlude` is one of `occlusion.PARTS`, or empty."""

    probabilities: bool = False
    uncertainty: bool = False
    occlude: str = ""


@dataclass(frozen=True)
class Made:
    """A map that was written: where it lies, the share (classes,) of each class, and what the user must be told."""

    grid: Grid
    shares: np.ndarray
    notes: tuple[str, ...]


def load(export: Path, head: str = "") -> Model:
    """An exported model, ready to run.

    Args:
        head: Which output of a model with several; empty: the first.

    Raises:
        UserError: The folder is not an export, or has no such output.
    """
    card = read_card(export)
    first, others = card["output"]["name"], card.get("other_outputs", {})
    if head in others:
        card |= {**others[head], "output": {**card["output"], "name": head}}
    elif head not in ("", first):
        raise unknown("output", head, [first, *others])
    loaded = tf.saved_model.load(str(export))  # kept: its variables would go with it
    serve = loaded.signatures["serving_default"]
    shapes = {tuple(spec.shape[2:]) for spec in serve.structured_input_signature[1].values()}

    def run(images: Images, _=loaded) -> np.ndarray:
        return serve(**{name: tf.constant(image) for name, image in images.items()})[card["output"]["name"]].numpy()

    return Model(card, run, max(shapes, key=lambda shape: shape[0] or 0))


def predict(model: Model, scene: Scene) -> np.ndarray:
    """Class probabilities (classes,) of a scene that is one patch.

    Raises:
        UserError: It is not of the patches' size.
    """
    size, grid = model.card["patch_size"], scene.grid
    if (grid.height, grid.width) != (size, size):
        raise UserError(
            f"{grid.height}x{grid.width} pixels; this model classifies patches of {size}x{size}; for a map give --output"
        )
    with opened(scene) as read:
        images, _ = read(0, 0, size, size)
    (probabilities,) = model.run({name: image[None] for name, image in images.items()})
    return probabilities


def outputs(output: Path, scenes: Sequence[Mapping[str, str]]) -> dict[Path, Mapping[str, str]]:
    """The map of each scene: `output` of a single one, else `<scene>.tif` in that folder.

    Raises:
        UserError: Two maps would have the same name, or the folder is missing.
    """
    if len(scenes) == 1 and not output.is_dir():
        return {output: scenes[0]}
    if not output.is_dir():
        raise UserError(f"{output}: no such folder; make it, or give another --output for the maps of {len(scenes)} scenes")
    named: dict[Path, Mapping[str, str]] = {}
    for scene in scenes:
        source = next((path for name, path in scene.items() if name != MASK), "")
        path = output / f"{Path(source).stem}.tif"
        if path in named:
            raise UserError(f"{source}: another scene's map is called {path} too; map it by a command of its own")
        named[path] = scene
    return named


def map_scene(model: Model, paths: Mapping[str, str], path: Path, reading: Reading, tiling: Tiling, wanted: Wanted) -> Made:
    """Write the map of a scene: reading, model and writing run at the same time, each a row of windows ahead of the next.

    Wide scenes are mapped in blocks of columns, so memory grows neither with the width nor with the height.

    Args:
        paths: As of `find_scene`.
        path: The map.

    Raises:
        UserError: The scene or the windows do not fit the model, or a file cannot be read or written.
    """
    card = model.card
    units = occlusion.units(card, wanted.occlude) if wanted.occlude else {}
    extras = Extras(wanted.probabilities, wanted.uncertainty, tuple(units))
    check_output(path, card["classes"], paths.values(), extras)
    scene = find_scene(paths, card, reading)
    rows, columns = axes(model, scene, tiling)
    run = _as_maps(model)
    if units:
        run = occlusion.occluding(run, card, units)

    channels = len(card["classes"]) + len(units)
    blocks = scene_windows.blocks(columns, _most(card, channels, rows, columns))

    def read() -> Iterator[scene_windows.Strip]:
        with opened(scene) as reader:
            for block in blocks:
                yield from scene_windows.strips(reader, rows, block)

    def compute() -> Iterator[scene_windows.Part]:
        strips = scene_windows.ahead(read(), max(1, WINDOW // rows.size))  # files are decoded by blocks of many rows
        for block in blocks:
            yield from scene_windows.predict(run, channels, strips, rows, block, batch_size(tiling, rows))

    total = len(rows.starts) * sum(len(block.starts) for block in blocks)
    with (
        contextlib.closing(scene_windows.ahead(compute())) as parts,
        progress(total=total, unit="windows", desc=path.stem) as bar,
    ):
        shares = write_map(path, _counted(parts, bar), scene.grid, rows.cell, card, extras)
    return Made(scene.grid.cells(rows.cell), shares, scene.notes)


def _counted(parts: Iterator[scene_windows.Part], bar) -> Iterator[scene_windows.Part]:
    for part in parts:
        yield part
        bar.update(part.windows)


def _most(card: Mapping, channels: int, rows: scene_windows.Axis, columns: scene_windows.Axis) -> int:
    """Windows side by side in a block, so that images and results of a row of them stay below `ROW_BYTES`."""
    pixel = sum(len(sensor["bands"]) * np.dtype(sensor["dtype"]).itemsize for sensor in card["inputs"].values())
    row = rows.size * columns.pixels * pixel + len(rows.taper) * columns.length * channels * 4
    return max(1, len(columns.starts) * ROW_BYTES // row)


def batch_size(tiling: Tiling, rows: scene_windows.Axis) -> int:
    """Windows at a time."""
    return tiling.batch or max(1, PIXELS // rows.size**2)


def axes(model: Model, scene: Scene, tiling: Tiling) -> tuple[scene_windows.Axis, scene_windows.Axis]:
    """Windows along rows and columns of a scene."""
    sides, patch = (scene.grid.height, scene.grid.width), model.card["patch_size"]
    if not model.dense:
        if tiling.window or tiling.overlap is not None:
            raise UserError(f"--window, --overlap: this model classifies patches of {patch} pixels; see --stride")
        stride = tiling.stride or patch
        if stride > patch:
            raise UserError(f"--stride={stride}: patches are {patch} pixels; between them, the scene would not be seen")
        return tuple(scene_windows.coarse(pixels, patch, stride) for pixels in sides)
    if tiling.stride:
        raise UserError(f"--stride={tiling.stride}: this model labels each pixel; see --window and --overlap")
    if tiling.window and any(size not in (None, tiling.window) for size in model.sizes):
        raise UserError(f"--window={tiling.window}: this model takes windows of {model.sizes[0]} pixels only")
    sizes = [size or tiling.window or max(WINDOW, patch) for size in model.sizes]
    overlaps = [tiling.overlap if tiling.overlap is not None else size // 4 for size in sizes]
    if any(overlap > size // 2 for overlap, size in zip(overlaps, sizes, strict=True)):
        raise UserError(f"--overlap={tiling.overlap}: windows of {sizes[0]} pixels overlap by {sizes[0] // 2} at most")
    return tuple(
        scene_windows.blended(pixels, size, overlap, fixed=size == exact, margin=model.card["output"].get("margin", 0))
        for pixels, size, overlap, exact in zip(sides, sizes, overlaps, model.sizes, strict=True)
    )


def _as_maps(model: Model) -> Callable[[Images], np.ndarray]:
    """The model's probabilities as (B, classes, rows, columns): of patches, one row and column."""
    if not model.dense:
        return lambda images: model.run(images)[:, :, None, None]

    def run(images: Images) -> np.ndarray:
        found, wanted = model.run(images), next(iter(images.values())).shape[2:]
        if found.shape[2:] != wanted:
            raise UserError(
                f"the model returns {found.shape[2:]} pixels for windows of {wanted}; only maps of the same size can be joined"
            )
        return found

    return run
