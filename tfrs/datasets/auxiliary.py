"""Auxiliary rasters (water, built-up ...) as dense layers of any georeferenced data set."""

import functools
import glob
from dataclasses import dataclass
from pathlib import Path

from tfrs import warp
from tfrs.datasets.base import Dataset
from tfrs.errors import BadPatch, UserError
from tfrs.schema import Field, Sample, Schema


@dataclass(frozen=True)
class WithAuxiliary:
    """A data set whose records carry further rasters, warped and clipped to each patch's grid by nearest neighbour.

    This is SatImNet's third kind of input: its water masks (GSW) and built-up masks (ESM) are made so (Syrris et al. 2020,
    section 3). Everything but the layers is the data set's own.

    Attributes:
        base: The data set.
        layers: (name, path) of each layer; a path is a raster, a VRT, or a pattern such as `GSW/*.tif` for several rasters,
            of which the first in sorted order that covers a pixel gives its value.
    """

    base: Dataset
    layers: tuple[tuple[str, str], ...]

    def __post_init__(self):
        fields = self.base.schema.fields
        if "transform" not in fields:
            raise UserError(f"data set {self.base.name!r} has no georeference; --aux cannot be placed on its patches")
        for name, _ in self.layers:
            if name in fields or not name.isidentifier():
                raise UserError(f"--aux {name!r} cannot be the name of a layer; the records have {', '.join(fields)}")

    def __getattr__(self, name: str):
        if name.startswith("__"):  # pickle asks for its hooks before `base` is there
            raise AttributeError(name)
        return getattr(self.base, name)

    @functools.cached_property
    def schema(self) -> Schema:
        fields = {name: Field("raster", warp.dtype(_files(path)[0]), (1, *self.grid)) for name, path in self.layers}
        return Schema({**self.base.schema.fields, **fields}, self.base.schema.schemes)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid that a record's `transform` describes: that of its finest raster."""
        return max(field.shape[-2:] for field in self.base.schema.fields.values() if field.kind == "raster")

    def read(self, root: Path, key: str) -> Sample:
        sample = self.base.read(root, key)
        for name, path in self.layers:
            if not sample["crs"]:
                raise BadPatch(key, f"has no CRS, so {path} cannot be placed on it")
            sample[name] = warp.onto(_files(path), sample["crs"], tuple(sample["transform"]), self.grid)
        return sample


@functools.lru_cache(maxsize=32)
def _files(pattern: str) -> tuple[str, ...]:
    """The rasters of a pattern, listed once."""
    files = tuple(sorted(glob.glob(pattern)))
    if not files:
        raise UserError(f"{pattern}: no such file for --aux")
    return files
