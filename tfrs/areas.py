"""Areas of the classes of a map, and what was occluded did to them, counted as parts of it are finished."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrs import geotiff
from tfrs.geotiff import Grid
from tfrs.storage import beside

A, B = 6_378_137.0, 6_356_752.314245  # semi-axes of WGS 84 in metres


@dataclass(frozen=True)
class Tables:
    """Sums over a map, filled in place.

    Attributes:
        per_row: Square metres (rows,) of a cell, by pixel of its width; None where the map has no place.
        widths: Pixels (columns,) of the scene that a cell is wide: fewer in the last column, if it reaches beyond the scene.
        pixels: Of each class (classes,).
        area: Square metres of each class (classes,).
        occluded: Names of what was occluded.
        drops: Sum (occluded, classes) over the pixels of each class.
    """

    per_row: np.ndarray | None
    widths: np.ndarray
    pixels: np.ndarray
    area: np.ndarray
    occluded: Sequence[str]
    drops: np.ndarray


def empty(scene: Grid, cell: int, classes: int, occluded: Sequence[str]) -> Tables:
    """
    Args:
        cell: Pixels of the scene per pixel of the map. What a cell has beyond the scene has no area.
    """
    per_row = pixel_areas(scene)
    if per_row is not None:
        per_row = np.add.reduceat(per_row, np.arange(0, scene.height, cell))
    widths = np.diff([*range(0, scene.width, cell), scene.width])
    drops = np.zeros((len(occluded), classes))
    return Tables(per_row, widths, np.zeros(classes, np.int64), np.zeros(classes), occluded, drops)


def count(tables: Tables, top: int, left: int, ids: np.ndarray, drops: np.ndarray) -> None:
    """Add a part of a map.

    Args:
        top: First row of it.
        left: First column.
        ids: (rows, columns), 0: no data, else class id + 1.
        drops: (occluded, rows, columns).
    """
    classes = len(tables.pixels)
    tables.pixels[:] += np.bincount(ids.ravel(), minlength=classes + 1)[1:]
    if tables.per_row is not None:
        offsets = (classes + 1) * np.arange(len(ids))[:, None]
        widths = np.broadcast_to(tables.widths[left : left + ids.shape[1]], ids.shape).ravel()
        by_row = np.bincount((ids + offsets).ravel(), widths, (classes + 1) * len(ids)).reshape(len(ids), -1)[:, 1:]
        tables.area[:] += tables.per_row[top : top + len(ids)] @ by_row
    for sums, values in zip(tables.drops, drops, strict=True):
        sums += np.bincount(ids.ravel(), values.ravel(), classes + 1)[1:]


def write(path: Path, place: Callable[[Path], Path], tables: Tables, classes: Sequence[dict]) -> None:
    """Write `<map>_areas.csv`, and `<map>_occlusion.csv` where something was occluded.

    Args:
        path: The map.
        place: Name to write a file under, by its own.
        classes: Entries of a card.
    """
    hectares = [""] * len(classes) if tables.per_row is None else [f"{area / 10_000:.4f}" for area in tables.area]
    names, total = [(entry["number"], entry["name"]) for entry in classes], max(tables.pixels.sum(), 1)
    rows = [
        (*name, pixels, area, f"{100 * pixels / total:.4f}")
        for name, pixels, area in zip(names, tables.pixels.tolist(), hectares, strict=True)
    ]
    _write_csv(place(beside(path, "areas", ".csv")), ("number", "class", "pixels", "hectares", "percent"), rows)
    if tables.occluded:
        means = (tables.drops / np.maximum(tables.pixels, 1)).T
        rows = [
            (*name, pixels, *(f"{value:.4f}" if pixels else "" for value in mean))
            for name, pixels, mean in zip(names, tables.pixels.tolist(), means.tolist(), strict=True)
        ]
        _write_csv(place(beside(path, "occlusion", ".csv")), ("number", "class", "pixels", *tables.occluded), rows)


def pixel_areas(grid: Grid) -> np.ndarray | None:
    """Square metres (rows,) of a pixel in each row of a grid; None where they cannot be known.

    Of a projected CRS those of the map plane, which UTM keeps within 0.2 %; of a geographic one those on WGS 84's ellipsoid.
    """
    a, b, _, d, e, f = grid.transform
    if not grid.crs:
        return None
    if unit := geotiff.metres(grid.crs):
        return np.full(grid.height, abs(a * e - b * d) * unit**2)
    if b or d or not geotiff.in_degrees(grid.crs):
        return None
    edges = np.radians(f + e * np.arange(grid.height + 1))
    return np.abs(np.diff(_below(edges)) * np.radians(a))


def _below(latitude: np.ndarray) -> np.ndarray:
    """Area between the equator and latitudes in radians, per radian of longitude (Snyder 1987, eq. 3-12)."""
    e = np.sqrt(1 - (B / A) ** 2)
    x = np.sin(latitude)
    return A**2 * (1 - e**2) / 2 * (x / (1 - (e * x) ** 2) + np.arctanh(e * x) / e)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
