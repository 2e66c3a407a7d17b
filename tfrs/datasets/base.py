"""The contract of a data set: what its records hold, which patches there are, and how one is read."""

import inspect
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from tfrs.errors import BadPatch, UserError
from tfrs.geotiff import Raster
from tfrs.records import SPLITS
from tfrs.schema import Field, Sample, Schema
from tfrs.sensors import Sensor

GEOREFERENCE = {"crs": Field("text"), "transform": Field("vector", "float64", (6,))}


@dataclass(frozen=True)
class Dataset(ABC):
    """A data set as published: a specification, a reader and a datasheet (the class docstring).

    Attributes:
        seed: Seed of a split that the data set's authors left open.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1.0.0"
    sensors: ClassVar[tuple[Sensor, ...]]
    schema: ClassVar[Schema]
    layout: ClassVar[str]  # how a patch's file is found, for the error that says it was not
    folders: ClassVar[tuple[str, ...]] = ()  # one of these is in a root that is unpacked; in others, archives are looked for
    splits: ClassVar[tuple[str, ...]] = SPLITS
    series_length: ClassVar[int] = 1  # usual length of a series, from which the number of shards is guessed

    seed: int = 0

    @abstractmethod
    def index(self, root: Path, split: str) -> list[str]:
        """Keys of a split in sorted order, from names alone: no raster is opened."""

    def at(self, root: Path) -> "Dataset":
        """The data set with the options that were left open settled by what is there."""
        return self

    def member(self, name: str) -> str:
        """Where a member of an archive belongs below the root; empty for one that is none of the data set."""
        return name

    def keys(self, root: Path) -> set[str]:
        """Keys of all splits together: what a split file may name."""
        return {key for split in self.splits for key in self.index(root, split)}

    def left_out(self, root: Path) -> dict[str, int]:
        """Numbers of patches in no split by the reason, from names alone; the builder prints them."""
        return {}

    def report(self, root: Path) -> list[str]:
        """What else there is to say before a build, from names alone; the builder prints it, and the manifest keeps it."""
        return []

    def simulated(self, root: Path) -> bool:
        """Whether what is read was simulated, though no marker file beside it says so."""
        return False

    @abstractmethod
    def read(self, root: Path, key: str) -> Sample:
        """One patch with every field of the schema.

        Raises:
            BadPatch: A file of the patch is missing, unreadable, or not as the schema says.
        """

    @abstractmethod
    def synthesize(self, root: Path, n: int, seed: int) -> None:
        """Write `n` simulated patches in the official layout, with the real dtypes, band order, CRS and names."""

    def patch(self, key: str) -> str:
        """The patch that a key stands for: keys of one patch, such as its dates, belong to one split."""
        return key

    @property
    def datasheet(self) -> str:
        """What the data set is, where it comes from and how it may be used: the class's docstring."""
        return inspect.getdoc(type(self))

    def not_found(self, root: Path) -> UserError:
        """The error for a root without a single patch of this data set."""
        if not root.exists():
            return UserError(f"{root}: no such file or directory; give the data set's place with --input")
        if root.is_dir():
            seen = sorted(os.listdir(root))[:5]
            there = f"it has {', '.join(seen)}" if seen else "it is empty"
        else:
            there = "a file in which there is none; unpack it if it is an archive"
        return UserError(f"{root}: no {self.name} patch found ({there}); expected {self.layout}")


def check(path, raster: Raster, dtype: str, shape: tuple[int, ...], nodata: float | None = None) -> np.ndarray:
    """The pixels of a raster that is as declared and has data everywhere a number must be.

    Raises:
        BadPatch: Another dtype, band count or size; NaN; the file's own nodata value; or no valid pixel at all.
    """
    data = raster.data
    if data.dtype != dtype:
        raise BadPatch(path, f"dtype is {data.dtype}, expected {dtype}")
    if len(data) != shape[0]:
        raise BadPatch(path, f"{len(data)} bands, expected {shape[0]}")
    if data.shape != shape:
        raise BadPatch(path, f"size is {data.shape[1]}x{data.shape[2]}, expected {shape[1]}x{shape[2]}")
    if data.dtype.kind == "f":
        low, high = data.min(), data.max()  # NaN and infinities show in them
        if not np.isfinite((low, high)).all():
            raise BadPatch(path, f"{int((~np.isfinite(data)).sum())} values are NaN or infinite")
        # Every float raster of these data sets is backscatter; not one pixel below 0 dB is no landscape, but the wrong unit.
        if low >= 0:
            raise BadPatch(path, "no value is below 0 dB; is it linear power? Convert it to decibels, 10 log10")
    if data.dtype.kind == "u" and _every(data, largest := (1 << 8 * data.itemsize) - 1):
        raise BadPatch(path, f"every value is {largest} (saturated)")
    if raster.nodata not in (None, nodata) and (count := np.count_nonzero(data == raster.nodata)):
        raise BadPatch(path, f"{count} values are the file's nodata value {raster.nodata:g}")
    if nodata is not None and _every(data, nodata):
        raise BadPatch(path, f"every value is {nodata:g} (nodata)")
    return data


def _every(data: np.ndarray, value: float) -> bool:
    return data.flat[0] == value and bool((data == value).all())  # the first pixel nearly always spares the others


def check_same_grid(path, raster: Raster, other_path, other: Raster) -> None:
    """Both rasters have the same CRS and transform.

    Raises:
        BadPatch: They do not; names both files.
    """
    if raster.crs != other.crs:
        raise BadPatch(path, f"CRS {raster.crs or 'missing'} differs from {other.crs or 'missing'} of {other_path}")
    same = raster.transform == other.transform  # nearly always, and known soon
    if not same and not all(abs(a - b) <= 1e-3 for a, b in zip(raster.transform, other.transform, strict=True)):
        raise BadPatch(path, f"transform {raster.transform} differs from {other.transform} of {other_path}")
