"""Which image of a series a model of single images gets."""

from collections.abc import Iterable

import numpy as np

from tfrs.augment.seeds import uniform
from tfrs.errors import UserError
from tfrs.records import Records

DATES = ("first", "random")


def check(records: Records, rasters: Iterable[str], date: str) -> None:
    """Raise a UserError unless `date` is one of `DATES` where these rasters are series, and empty where they are not."""
    series = any(records.schema.fields[name].series for name in rasters)
    if series and date not in DATES:
        raise UserError(
            f"{records.directory}: the records hold series of images; a model of single images needs one of each "
            f"({', '.join(f'--date={name}' for name in DATES)}), or records built with --form=single"
        )
    if date and not series:
        raise UserError(f"{records.directory}: the records hold single images; --date={date} is for series")


def chosen(date: str, seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Number of the image (B,) taken from each of several series, of all sensors alike.

    Args:
        date: `first`, or `random` for a draw by the seed (B,) of the sample.
        steps: Lengths of the series (B,).
    """
    return ((uniform(seeds) if date == "random" else 0.0) * steps).astype(np.int64)
