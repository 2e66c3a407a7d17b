"""Augmentations by name, applied to batches: plain NumPy functions, the same draw for every raster of a sample.

Each sample has a 64-bit seed of its own, so it is augmented alike whatever batch, worker or reading mode it arrives in. Only
the neighbour that mixup and cutmix take is that of the batch.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tfrs.augment import erasing, geometry, radiometry
from tfrs.augment.layers import Images, Layer, Op
from tfrs.augment.mixing import Mixing, cutmix, mixup
from tfrs.augment.seeds import mix
from tfrs.errors import UserError, unknown


@dataclass(frozen=True)
class Number:
    """A number of a spec: what it is where none is given (None: one must be), and which will do."""

    default: float | None
    valid: Callable[[float], bool]
    wanted: str
    type: type = float


def _between(low: float, high: float) -> Callable[[float], bool]:
    return lambda value: low <= value <= high


def _size(value: float) -> bool:
    return 0 < value < math.inf and value % 1 == 0


_SIZE = Number(None, _size, "the size is a whole number of pixels", int)

# Name -> maker of the op from the layers and the numbers of its spec.
OPS: dict[str, tuple[Callable[..., Op], *tuple[Number, ...]]] = {
    "dihedral": (geometry.dihedral,),
    "crop": (geometry.crop, _SIZE),
    "resized_crop": (
        geometry.resized_crop,
        _SIZE,
        Number(0.25, _between(0.01, 1), "the smallest share of the area is between 0.01 and 1"),
    ),
    "rotate": (geometry.rotate, Number(180, _between(0, 180), "the largest angle is between 0 and 180 degrees")),
    "noise": (radiometry.noise, Number(0.05, _between(0, 100), "the amount is between 0 and 100")),
    "brightness": (radiometry.brightness, Number(0.1, _between(0, 0.99), "the amount is between 0 and 0.99")),
    "contrast": (radiometry.contrast, Number(0.1, _between(0, 0.99), "the amount is between 0 and 0.99")),
    "speckle": (radiometry.speckle, Number(4, _between(1, 1000), "the number of looks is between 1 and 1000")),
    "band_dropout": (erasing.band_dropout, Number(0.1, _between(0, 1), "the probability is between 0 and 1")),
    "modality_dropout": (erasing.modality_dropout, Number(0.2, _between(0, 1), "the probability is between 0 and 1")),
    "cutout": (erasing.cutout, _SIZE),
}
# The same of those that mix records.
MIXINGS: dict[str, tuple[Callable[..., Mixing], Number]] = {
    "mixup": (mixup, Number(0.2, _between(0.01, 100), "alpha is between 0.01 and 100")),
    "cutmix": (cutmix, Number(1, _between(0.01, 100), "alpha is between 0.01 and 100")),
}


@dataclass(frozen=True)
class Chain:
    """Ops in their order, and the mixing that ends them, if any.

    Attributes:
        turns: The first op is dihedral. Pixels may be copied under `symmetries` instead, which spares the op's own copies.
    """

    ops: tuple[Op, ...] = ()
    mixing: Mixing | None = None
    turns: bool = False

    def symmetries(self, seeds: np.ndarray) -> list[int] | None:
        """Those that the first op gives to samples with these seeds; None of another op."""
        return geometry.symmetries(mix(seeds)) if self.turns else None


def parse(specs: str | Iterable[str], layers: Mapping[str, Layer]) -> Chain:
    """A chain from a spec such as `dihedral`, `crop:64`, `resized_crop:64:0.5`, or from several in the order given.

    Raises:
        UserError: The name is unknown, its numbers are missing or will not do, or something comes after a mixing.
    """
    specs = [specs] if isinstance(specs, str) else list(specs)
    mixes = [spec.partition(":")[0] in MIXINGS for spec in specs]
    if any(mixes[:-1]):
        first = specs[mixes.index(True)]
        raise UserError(f"augmentation {first!r} must be the last: one after it could change how much of each record is there")
    made = [_made(spec, layers) for spec in specs]
    mixing = made.pop() if any(mixes) else None
    return Chain(tuple(made), mixing, turns=specs[:1] == ["dihedral"])


def _made(spec: str, layers: Mapping[str, Layer]) -> Op | Mixing:
    name, *texts = spec.split(":")
    known = OPS | MIXINGS
    if name not in known:
        raise unknown("augmentation", name, known)
    make, *numbers = known[name]
    if len(texts) > len(numbers):
        raise UserError(f"augmentation {spec!r}: it takes {('no number', 'one number', 'two numbers')[len(numbers)]}")
    return make(layers, *(_value(spec, *pair) for pair in itertools.zip_longest(numbers, texts, fillvalue="")))


def _value(spec: str, number: Number, text: str) -> float:
    if not text:
        if number.default is None:
            name = spec.partition(":")[0]
            raise UserError(f"augmentation {name!r} needs a number, e.g. {name}:64")
        return number.default
    try:
        value = float(text)
    except ValueError as error:
        raise UserError(f"augmentation {spec!r}: {error}") from error
    if not number.valid(value):
        raise UserError(f"augmentation {spec!r}: {number.wanted}")
    return number.type(value)


def apply(chain: Chain, images: Images, seeds: np.ndarray, done: int = 0) -> tuple[Images, np.ndarray]:
    """Augmented rasters of a batch, and how much (B,) of each sample is its own and not of the next one.

    Args:
        images: The rasters; they may be written into.
        seeds: One per sample; each op gets them mixed anew.
        done: So many of the first ops were done while the rasters were copied (`Chain.symmetries`).
    """
    for number, op in enumerate(chain.ops):
        seeds = mix(seeds)
        if number >= done:
            images = op(images, seeds)
    return images, np.ones(len(seeds), np.float32) if chain.mixing is None else chain.mixing(images, mix(seeds))
