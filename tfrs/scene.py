"""A whole scene as the model's inputs: all bands on one grid, values checked and converted, read window by window."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfrs import geotiff, registry, scene_values, warp
from tfrs.errors import UserError, unknown
from tfrs.geotiff import Grid
from tfrs.resampling import METHODS
from tfrs.scene_source import Place, find, product
from tfrs.scene_values import NOTHING, Conversion, Said, convert

MASK = "mask"  # name of a cloud mask among a scene's rasters
PIXEL = 10.0  # metres, of all data sets that models learn from
SAMPLES, SAMPLE = 3, 64  # values are checked in this many windows of this side, in each direction


@dataclass(frozen=True)
class Reading:
    """How the rasters of scenes are to be read.

    Attributes:
        bands: Bands by sensor, of rasters that do not name theirs; `""` stands for the only sensor.
        layout: Data set whose files have the band order of these, instead of `bands`.
        resampling: How bands come to the finest band's grid, one of `resampling.METHODS`; empty: as the model's data were made.
        aoi: GeoJSON file of the area wanted; empty: the whole scene.
        said: What is known of the values.
    """

    bands: Mapping[str, Sequence[str]]
    layout: str = ""
    resampling: str = ""
    aoi: str = ""
    said: Said = NOTHING


@dataclass(frozen=True)
class Scene:
    """A scene that can be read.

    Attributes:
        grid: That of the finest band of the first sensor, cut to the area of interest.
        origin: The whole grid, and the row and column at which `grid` starts there.
        places: Where the bands of each sensor are, in the model's order.
        conversions: From their values to the model's.
        mask: Raster that is not 0 where there is to be no map; empty: none.
        polygons: The area of interest, in the grid's CRS.
        notes: What the user must be told.
    """

    grid: Grid
    origin: tuple[Grid, int, int]
    places: Mapping[str, tuple[Place, ...]]
    conversions: Mapping[str, Conversion]
    resampling: str
    mask: str
    polygons: tuple[dict, ...]
    notes: tuple[str, ...]


def find_scene(paths: Mapping[str, str], card: Mapping, reading: Reading) -> Scene:
    """A scene for a model, its bands found and a sample of its values checked.

    Args:
        paths: Raster, folder or zip of each sensor, and of `MASK`.

    Raises:
        UserError: Something of it does not fit the model, with what to do.
    """
    inputs, said = card["inputs"], reading.said
    if reading.layout and said.s2_offset is None:
        said = replace(said, s2_offset=0)  # the data sets were made before baseline 04.00
    given = [name for name in paths if name != MASK]
    if set(given) != set(inputs):
        raise UserError(f"the model takes {', '.join(inputs)}; --scene gives {', '.join(given) or 'nothing'}")
    if apart := [name for name in inputs if name.rpartition("_")[2] in ("10m", "20m", "60m")]:
        raise UserError(
            f"the model takes bands of each resolution apart ({', '.join(apart)}); for scenes, train one on common pixels"
        )
    _check_bands(reading.bands, inputs)
    places = {
        name: tuple(find(paths[name], sensor["bands"], _order(name, inputs, reading)).values())
        for name, sensor in inputs.items()
    }
    headers = {place.path: geotiff.header(place.path) for chosen in places.values() for place in chosen}
    grid = min((headers[place.path].grid for place in places[next(iter(inputs))]), key=_pixel_area)
    _check_degrees(paths[next(iter(inputs))], grid)
    window, polygons = (0, 0, grid.height, grid.width), ()
    if reading.aoi:
        if not grid.crs:
            raise UserError(f"{paths[next(iter(inputs))]}: has no CRS, so --aoi={reading.aoi} cannot be placed on it")
        polygons = tuple(warp.outline(reading.aoi, grid.crs))
        if not (window := warp.extent(polygons, grid)):
            raise UserError(f"{reading.aoi}: lies outside of {paths[next(iter(inputs))]}")
    resampling = reading.resampling or card["data"]["spec"].get("resampling") or "bilinear"
    if resampling not in METHODS:
        raise unknown("resampling", resampling, METHODS)
    plain = {name: scene_values.plain(sensor, headers[places[name][0].path]) for name, sensor in inputs.items()}
    scene = Scene(grid.part(*window), (grid, *window[:2]), places, plain, resampling, paths.get(MASK, ""), polygons, ())
    conversions, notes = {}, []
    if scene.mask:
        notes += _coverage(scene.grid, scene.mask, [geotiff.header(scene.mask).grid], "beyond it, nothing is masked")
    for name, sensor in inputs.items():
        grids = {headers[place.path].grid for place in places[name]}
        notes += _coverage(scene.grid, paths[name], grids, "beyond it, there is no map")
        origin, sample = product(paths[name]), _sample(scene, name)
        conversions[name], told = scene_values.conversion(paths[name], sensor, plain[name], sample, origin, said)
        notes += [*told, *scene_values.level_note(paths[name], origin, card["data"]["dataset"])]
    if grid.crs.startswith("EPSG:32") and abs(grid.transform[0] - PIXEL) > PIXEL / 20:
        notes.append(f"{next(iter(paths.values()))}: pixels of {grid.transform[0]:g} m; the model learned from {PIXEL:g} m")
    return replace(scene, conversions=conversions, notes=tuple(notes))


@contextlib.contextmanager
def opened(scene: Scene) -> Iterator[Callable[[int, int, int, int], tuple[dict[str, np.ndarray], np.ndarray]]]:
    """Yields `read(top, left, height, width)`: images (C, height, width) by sensor, and the pixels that have data in all.

    A window lies inside the scene's grid.
    """
    grid, above, before = scene.origin
    with contextlib.ExitStack() as stack:
        readers = {name: stack.enter_context(_bands(scene, name)) for name in scene.places}
        mask = scene.mask and stack.enter_context(warp.bands([(scene.mask, 1)], grid, "nearest", 0))

        def read(top: int, left: int, height: int, width: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
            known, images = np.ones((height, width), bool), {}
            for name, reader in readers.items():
                raw = reader(above + top, before + left, height, width)
                images[name], there = convert(raw, scene.conversions[name])
                known &= there
            if mask:
                known &= mask(above + top, before + left, height, width)[0] == 0
            if scene.polygons:
                known &= warp.inside(scene.polygons, scene.grid.part(top, left, height, width))
            return images, known

        yield read


def _bands(scene: Scene, name: str):
    """Reader of a sensor's bands on the whole grid."""
    places = [(place.path, place.number) for place in scene.places[name]]
    return warp.bands(places, scene.origin[0], scene.resampling, scene.conversions[name].absent)


def _sample(scene: Scene, name: str) -> np.ndarray:
    """Values (C, N) of pixels with data in windows spread over the scene."""
    grid, found = scene.grid, []
    size = min(SAMPLE, grid.height), min(SAMPLE, grid.width)
    with _bands(scene, name) as read:
        for i in range(SAMPLES**2):
            row, column = divmod(i, SAMPLES)
            top = scene.origin[1] + (grid.height - size[0]) * row // (SAMPLES - 1)
            left = scene.origin[2] + (grid.width - size[1]) * column // (SAMPLES - 1)
            values = read(top, left, *size)
            found.append(values[:, ~scene_values.missing(values, scene.conversions[name].absent)])
    return np.concatenate(found, axis=1)


def _order(name: str, inputs: Mapping, reading: Reading) -> Sequence[str]:
    """The bands of a sensor's raster, where the user says them."""
    if listed := reading.bands.get(name) or (len(inputs) == 1 and reading.bands.get("")):
        return listed
    if not reading.layout:
        return ()
    sensors = {sensor.name: sensor for sensor in registry.dataset(reading.layout)().sensors}
    if name not in sensors:
        raise UserError(f"data set {reading.layout!r} has no sensor {name!r}; it has {', '.join(sensors)}")
    return sensors[name].bands


def _check_bands(bands: Mapping[str, Sequence[str]], inputs: Mapping) -> None:
    """Raise a UserError where --bands says something of no input, which would be lost."""
    form = "+".join(f"{name}:{','.join(sensor['bands'])}" for name, sensor in inputs.items())
    if strange := [name for name in bands if name and name not in inputs]:
        raise UserError(f"--bands names {', '.join(strange)}, the model takes {', '.join(inputs)}; write it as {form}")
    if "" in bands and len(inputs) > 1:
        raise UserError(f"--bands does not say of which sensor; write it as {form}, in the order of the files")


def _check_degrees(path: str, grid: Grid) -> None:
    """Raise a UserError where the CRS is one of degrees and the coordinates cannot be."""
    _, _, _, _, e, f = grid.transform
    if grid.crs and geotiff.in_degrees(grid.crs) and max(abs(f), abs(f + e * grid.height)) > 91:  # a pixel beyond the pole
        raise UserError(
            f"{path}: is said to be in {grid.crs}, in degrees, but begins at y = {f:g}; give it the CRS that it has"
        )


def _coverage(scene: Grid, path: str, grids: Iterable[Grid], beyond: str) -> list[str]:
    """What must be told of rasters that are not as large as the scene.

    Raises:
        UserError: One lies elsewhere.
    """
    placed = [grid for grid in grids if grid.crs and scene.crs]  # without a CRS, it is on the scene's grid or refused when read
    share = min((warp.share_covered(scene, grid) for grid in placed), default=1)
    if not share:
        raise UserError(f"{path}: lies outside of the scene")
    return [f"{path}: covers about {share:.0%} of the scene; {beyond}"] if share < 0.995 else []


def _pixel_area(grid: Grid) -> float:
    a, b, _, d, e, _ = grid.transform
    return abs(a * e - b * d)
