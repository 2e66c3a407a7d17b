"""Patches left out: how many may be, and what is said when there are more."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tfrecords_builder import lock
from tfrs.errors import UserError
from tfrs.records import QUARANTINE
from tfrs.storage import replacing

FEW = 10  # bad patches never stop a build, however small it is, unless the fraction is 0
SHOWN = 3  # reasons in the message that stops a build


def allowed(planned: int, fraction: float) -> int:
    """How many of the patches planned may be bad: the fraction of them, or `FEW` where that is more; none where it is 0.

    As it counts against all patches that are planned, the outcome depends neither on the order in which they are read nor
    on workers or interruptions.
    """
    return max(FEW, math.floor(fraction * planned + 1e-9)) if fraction else 0


def tally(lines: Iterable[dict]) -> Counter:
    """How often there is each reason; "7 values are NaN" and "9 values are NaN" are one."""
    return Counter(map(_kind, lines))


def _kind(line: dict) -> str:
    name = re.escape(os.path.basename(line["path"]))  # GDAL's messages name the file
    return re.sub(r"^\d+", "n", re.sub(rf"[^\s('\"]*{name}", "the file", line["reason"]))


def write(path: Path, lines: list[dict]) -> None:
    """Write the list of the patches left out, one JSON object a line."""
    with replacing(path, lock.suffix()) as temporary:  # tasks of one build may stop at once
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


def parse(line: str) -> dict:
    """One line of the list.

    Raises:
        ValueError: It is none.
    """
    entry = json.loads(line)
    if not isinstance(entry, dict) or not {"key", "split", "path", "reason"} <= entry.keys():
        raise ValueError("no JSON object with key, split, path and reason")
    return entry


def check(folder: Path, lines: list[dict], planned: int, fraction: float) -> None:
    """Stop a build with more bad patches than allowed, so that a broken source is noticed early.

    Raises:
        UserError: There are more; says why, where the list is, and what to do.
    """
    most = allowed(planned, fraction)
    if len(lines) <= most:
        return
    write(folder / QUARANTINE, lines)
    reasons = tally(lines).most_common(SHOWN)
    examples = {_kind(line): line["path"] for line in reversed(lines)}
    text = "; ".join(f"{count} x {reason}, e.g. {examples[reason]}" for reason, count in reasons)
    raise UserError(
        f"{folder.parent}: stopped, {len(lines)} patches are bad, and --max_bad_fraction={fraction:g} of {planned} allows "
        f"{most}: {text}. All are listed in {folder / QUARANTINE}. Mend the source and run the same command again, which reads "
        "them anew; or leave them out with a larger --max_bad_fraction"
    )


def retry_before(folder: Path, planned: int, fraction: float) -> float:
    """The time of the last stop, unless more is allowed now: older shards with bad patches are to be written again."""
    path = folder / QUARANTINE
    if not path.exists() or len(path.read_text().splitlines()) <= allowed(planned, fraction):
        return -math.inf
    return path.stat().st_mtime
