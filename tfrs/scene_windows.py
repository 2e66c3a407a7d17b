"""Windows over a scene: read by rows, run through a model in batches, blended, and given out as soon as no window follows."""

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Images = dict[str, np.ndarray]
Read = Callable[[int, int, int, int], tuple[Images, np.ndarray]]


@dataclass(frozen=True)
class Axis:
    """Windows along rows or columns, and where their results go.

    Attributes:
        pixels: Length of the scene.
        starts: First pixel of each window; may lie outside the scene, as may the last.
        size: Pixels of a window.
        cell: Pixels of the scene per pixel of the map.
        lead: Pixels of a window before its first cell.
        places: First pixel of each window's result in the map.
        taper: Weight along the result of a window.
        length: Length of the map.
    """

    pixels: int
    starts: tuple[int, ...]
    size: int
    cell: int
    lead: int
    places: tuple[int, ...]
    taper: np.ndarray
    length: int

    @functools.cached_property
    def total(self) -> np.ndarray:
        """Sum of the weights (length,) at each pixel of the map."""
        sums = np.zeros(self.places[-1] + len(self.taper))
        for place in self.places:
            sums[place : place + len(self.taper)] += self.taper
        return sums[: self.length].astype(np.float32)


def blended(pixels: int, size: int, overlap: int, fixed: bool = False) -> Axis:
    """Overlapping windows of a model that labels pixels; ramps of Hann's window, sin^2, make neighbours sum to 1.

    Half the size as overlap is Hann's window itself. The last window ends with the scene.

    Args:
        fixed: The model takes this size only; else windows are no larger than the scene.
    """
    size = size if fixed else min(size, pixels)
    overlap = min(overlap, size // 2)
    starts = (*range(0, pixels - size, size - overlap), max(pixels - size, 0))
    ramp = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / max(overlap, 1)) ** 2
    taper = np.concatenate([ramp, np.ones(size - 2 * overlap), ramp[::-1]]).astype(np.float32)
    return Axis(pixels, starts, size, 1, 0, starts, taper, pixels)


def coarse(pixels: int, size: int, stride: int) -> Axis:
    """Patches of a model that classifies them, each around a cell of `stride` pixels; the cells cover the scene."""
    cells = -(-pixels // stride)
    lead = (size - stride) // 2
    starts = tuple(i * stride - lead for i in range(cells))
    return Axis(pixels, starts, size, stride, lead, tuple(range(cells)), np.ones(1, np.float32), cells)


@dataclass(frozen=True)
class Strip:
    """A row of windows: images (C, size, width) by sensor, and the pixels (size, width) that have data."""

    images: Images
    known: np.ndarray


@dataclass(frozen=True)
class Rows:
    """Finished rows of a map.

    Attributes:
        first: The first of them.
        values: (channels, rows, columns); of no meaning where `known` is False.
        known: (rows, columns), whether half of the pixels have data.
        images: The part of the scene below, by sensor.
        windows: How many windows are done with them.
    """

    first: int
    values: np.ndarray
    known: np.ndarray
    images: Images
    windows: int


def strips(read: Read, rows: Axis, columns: Axis) -> Iterator[Strip]:
    """The rows of windows in order; each pixel is read once, and mirrored beyond the scene's edges."""
    across = _mirrored(columns.pixels, columns.starts[0], columns.starts[-1] + columns.size - columns.starts[0])
    plain = len(across) == columns.pixels
    kept, begin, end = None, 0, 0
    for start in rows.starts:
        down = _mirrored(rows.pixels, start, rows.size)
        first, last = int(down.min()), int(down.max()) + 1
        fresh = read(end, 0, last - end, columns.pixels) if last > end else None
        parts = [part for part in (kept, fresh) if part]
        images = {name: np.concatenate([p[0][name] for p in parts], axis=1)[:, first - begin :] for name in parts[0][0]}
        known = np.concatenate([part[1] for part in parts])[first - begin :]
        kept, begin, end = (images, known), first, max(last, end)
        chosen = (
            slice(start - first, start - first + rows.size) if start >= 0 and start + rows.size <= rows.pixels else down - first
        )
        yield Strip(
            {name: image[:, chosen] if plain else image[:, chosen][:, :, across] for name, image in images.items()},
            known[chosen] if plain else known[chosen][:, across],
        )


def _mirrored(pixels: int, start: int, size: int) -> np.ndarray:
    """Positions (size,) in the scene of pixels from `start` on, mirrored at its edges."""
    around = np.arange(start, start + size) % (2 * pixels)
    return np.where(around < pixels, around, 2 * pixels - 1 - around)


def predict(
    model: Callable[[Images], np.ndarray], channels: int, source: Iterator[Strip], rows: Axis, columns: Axis, batch: int
) -> Iterator[Rows]:
    """The map, row of windows by row of windows; windows without data are not computed.

    Never more than one row of windows is kept, so memory grows with the width of a scene and not with its height.

    Args:
        model: Images (B, C, size, size) by sensor -> (B, channels, rows, columns), the taper's length in both.
        batch: Windows at a time.
    """
    width = columns.places[-1] + len(columns.taper)
    lefts = [start - columns.starts[0] for start in columns.starts]  # in a strip
    taper = rows.taper[:, None] * columns.taper
    sums = np.zeros((channels, len(rows.taper), width), np.float32)
    for i, strip in enumerate(source):
        chosen = [j for j, left in enumerate(lefts) if strip.known[:, left : left + columns.size].any()]
        for at in range(0, len(chosen), batch):
            part = chosen[at : at + batch]
            windows = {
                name: np.stack([image[:, :, lefts[j] : lefts[j] + columns.size] for j in part])
                for name, image in strip.images.items()
            }
            for j, values in zip(part, model(windows), strict=True):
                sums[:, :, columns.places[j] : columns.places[j] + len(columns.taper)] += values * taper
        place = rows.places[i]
        count = (rows.places[i + 1] if i + 1 < len(rows.places) else rows.length) - place
        inner, cut = (slice(a.lead, a.lead + n * a.cell) for a, n in ((rows, count), (columns, columns.length)))
        cells = strip.known[inner, cut].reshape(count, rows.cell, columns.length, columns.cell)
        values = sums[:, :count, : columns.length] / (rows.total[place : place + count, None] * columns.total)
        sums[:, : len(rows.taper) - count] = sums[:, count:]
        sums[:, len(rows.taper) - count :] = 0
        images = {name: image[:, inner, cut] for name, image in strip.images.items()}
        yield Rows(place, values, cells.mean(axis=(1, 3)) >= 0.5, images, (i + 1) * len(columns.starts))


def ahead(source: Iterator, depth: int = 1) -> Iterator:
    """The same items, made by a thread that is up to `depth` of them ahead; it ends when this iterator is closed."""
    items: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(item) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            with contextlib.closing(source):
                for item in source:
                    if not put((item, None)):
                        return
            put((None, StopIteration()))
        except BaseException as error:  # raised again where the items are wanted
            put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if isinstance(error, StopIteration):
                return
            if error:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()
