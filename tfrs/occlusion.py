"""What a sensor or band contributes to a prediction: occlusion sensitivity (Ekim & Schmitt 2023, on modalities)."""

from collections.abc import Callable, Mapping

import numpy as np

from tfrs.errors import unknown
from tfrs.scene_windows import Images

PARTS = ("sensor", "band")


def units(card: Mapping, part: str) -> dict[str, dict[str, list[int]]]:
    """What is occluded in turn: name -> sensor -> positions of its bands.

    Args:
        part: One of `PARTS`.

    Raises:
        UserError: It is none of them.
    """
    if part not in PARTS:
        raise unknown("part to --occlude", part, PARTS)
    bands = {name: sensor["bands"] for name, sensor in card["inputs"].items()}
    if part == "sensor":
        return {name: {name: list(range(len(listed)))} for name, listed in bands.items()}
    return {f"{name}:{band}": {name: [i]} for name, listed in bands.items() for i, band in enumerate(listed)}


def occluding(
    model: Callable[[Images], np.ndarray], card: Mapping, occluded: Mapping[str, Mapping[str, list[int]]]
) -> Callable[[Images], np.ndarray]:
    """The model with channels below its own (B, classes, H, W): how much of the highest probability goes without each unit.

    An occluded band holds the mean of the training split everywhere, which the model sees as 0. A loss of 1 says that the class
    rests on the unit alone, 0 that the unit does not matter; below 0, it speaks against the class.
    """
    means = {
        name: np.array([card["statistics"][name][band]["mean"] for band in sensor["bands"]])
        for name, sensor in card["inputs"].items()
    }

    def run(images: Images) -> np.ndarray:
        full = model(images)
        chosen = full.argmax(axis=1)[:, None]
        highest = np.take_along_axis(full, chosen, axis=1)
        drops = []
        for positions in occluded.values():
            hidden = dict(images)
            for name, where in positions.items():
                hidden[name] = images[name].copy()
                fill = means[name][where]
                kind = hidden[name].dtype
                hidden[name][:, where] = (np.rint(fill) if kind.kind in "iu" else fill).astype(kind)[:, None, None]
            drops.append(highest - np.take_along_axis(model(hidden), chosen, axis=1))
        return np.concatenate([full, *drops], axis=1)

    return run
