"""Windows over a scene: read by rows, run through a model in batches, blended, and given out as soon as no window follows."""

import contextlib
import functools
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

_NEAR = 1e-8  # of which a product with any probability is nothing beside 1 in float32

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
        first: First pixel of it; of a block not 0, and its first window may begin before.
    """

    pixels: int
    starts: tuple[int, ...]
    size: int
    cell: int
    lead: int
    places: tuple[int, ...]
    taper: np.ndarray
    length: int
    first: int = 0

    @functools.cached_property
    def total(self) -> np.ndarray:
        """Sum of the weights (length,) at each pixel of the map."""
        sums = np.zeros(self.span)
        for place in self.places:
            sums[place - self.places[0] :][: len(self.taper)] += self.taper
        return sums[self.first - self.places[0] :][: self.length].astype(np.float32)

    @property
    def span(self) -> int:
        """Pixels of the map that its windows reach, from the first place on."""
        return self.places[-1] - self.places[0] + len(self.taper)


def blended(pixels: int, size: int, overlap: int, fixed: bool = False, margin: int = 0) -> Axis:
    """Overlapping windows of a model that labels pixels; ramps of Hann's window, sin^2, make neighbours sum to 1.

    Half the size as overlap is Hann's window itself. The last window ends with the scene.

    Args:
        fixed: The model takes this size only; else windows are no larger than the scene.
        margin: Pixels at a window's edges in whose place the model sees mirrored ones too. Another window has them inside,
            overlapping by two margins at least; so they count only at the edges of the scene.
    """
    size = size if fixed else min(size, pixels)
    overlap = min(max(overlap, 2 * margin), size // 2)
    starts = (*range(0, pixels - size, size - overlap), max(pixels - size, 0))
    ramp = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / max(overlap, 1)) ** 2
    taper = np.concatenate([ramp, np.ones(size - 2 * overlap), ramp[::-1]])
    near = _NEAR ** np.arange(margin, 0, -1)  # the nearer to an edge, the less beside any other window
    taper[:margin] *= near
    taper[size - margin :] *= near[::-1]
    taper = taper.astype(np.float32)
    return Axis(pixels, starts, size, 1, 0, starts, taper, pixels)


def coarse(pixels: int, size: int, stride: int) -> Axis:
    """Patches of a model that classifies them, each around a cell of `stride` pixels; the cells cover the scene."""
    cells = -(-pixels // stride)
    lead = (size - stride) // 2
    starts = tuple(i * stride - lead for i in range(cells))
    return Axis(pixels, starts, size, stride, lead, tuple(range(cells)), np.ones(1, np.float32), cells)


def blocks(axis: Axis, most: int) -> list[Axis]:
    """An axis in blocks of up to `most` windows, which make the same map one after the other.

    A window that reaches into the next block is computed for both.
    """
    count = len(axis.starts)
    bounds = [count * i // -(-count // most) for i in range(-(-count // most) + 1)]
    found = []
    for begin, end in itertools.pairwise(bounds):
        first = axis.places[begin]
        last = axis.places[end] if end < count else axis.length
        begin = next(i for i, place in enumerate(axis.places) if place + len(axis.taper) > first)
        found.append(
            replace(axis, starts=axis.starts[begin:end], places=axis.places[begin:end], first=first, length=last - first)
        )
    return found


@dataclass(frozen=True)
class Strip:
    """A row of windows: images (C, size, width) by sensor, and the pixels (size, width) that have data."""

    images: Images
    known: np.ndarray


@dataclass(frozen=True)
class Part:
    """A finished part of a map.

    Attributes:
        top: First row of it.
        left: First column.
        values: (channels, rows, columns); of no meaning where `known` is False.
        known: (rows, columns), whether half of the pixels have data.
        images: The part of the scene below, by sensor.
        windows: How many windows it took.
    """

    top: int
    left: int
    values: np.ndarray
    known: np.ndarray
    images: Images
    windows: int


def strips(read: Read, rows: Axis, columns: Axis) -> Iterator[Strip]:
    """The rows of windows in order; each pixel is read once, and mirrored beyond the scene's edges."""
    across = _mirrored(columns.pixels, columns.starts[0], columns.starts[-1] + columns.size - columns.starts[0])
    left, width = int(across.min()), int(across.max()) + 1 - int(across.min())
    plain = len(across) == width
    kept, begin, end = None, 0, 0
    for start in rows.starts:
        down = _mirrored(rows.pixels, start, rows.size)
        first, last = int(down.min()), int(down.max()) + 1
        fresh = read(end, left, last - end, width) if last > end else None
        parts = [part for part in (kept, fresh) if part]
        images = {name: np.concatenate([p[0][name] for p in parts], axis=1)[:, first - begin :] for name in parts[0][0]}
        known = np.concatenate([part[1] for part in parts])[first - begin :]
        kept, begin, end = (images, known), first, max(last, end)
        chosen = (
            slice(start - first, start - first + rows.size) if start >= 0 and start + rows.size <= rows.pixels else down - first
        )
        yield Strip(
            {name: image[:, chosen] if plain else image[:, chosen][:, :, across - left] for name, image in images.items()},
            known[chosen] if plain else known[chosen][:, across - left],
        )


def _mirrored(pixels: int, start: int, size: int) -> np.ndarray:
    """Positions (size,) in the scene of pixels from `start` on, mirrored at its edges."""
    around = np.arange(start, start + size) % (2 * pixels)
    return np.where(around < pixels, around, 2 * pixels - 1 - around)


def predict(
    model: Callable[[Images], np.ndarray], channels: int, source: Iterator[Strip], rows: Axis, columns: Axis, batch: int
) -> Iterator[Part]:
    """The map, row of windows by row of windows; windows without data are not computed.

    Never more than one row of windows is kept, so memory grows with the width and not with the height.

    Args:
        model: Images (B, C, size, size) by sensor -> (B, channels, rows, columns), the taper's length in both.
        source: Gives a strip for each row of windows, and may have more.
        batch: Windows at a time.
    """
    lefts = [start - columns.starts[0] for start in columns.starts]  # in a strip
    places = [place - columns.places[0] for place in columns.places]  # in `sums`
    outside = columns.first - columns.places[0]
    inside = slice(outside, outside + columns.length)
    across = slice(columns.lead + outside * columns.cell, columns.lead + inside.stop * columns.cell)
    taper = rows.taper[:, None] * columns.taper
    sums = np.zeros((channels, len(rows.taper), columns.span), np.float32)
    for place, after, strip in zip(rows.places, (*rows.places[1:], rows.length), source, strict=False):
        chosen = [j for j, left in enumerate(lefts) if strip.known[:, left : left + columns.size].any()]
        for at in range(0, len(chosen), batch):
            part = chosen[at : at + batch]
            windows = {
                name: np.stack([image[:, :, lefts[j] : lefts[j] + columns.size] for j in part])
                for name, image in strip.images.items()
            }
            for j, values in zip(part, model(windows), strict=True):
                sums[:, :, places[j] : places[j] + len(columns.taper)] += values * taper
        count = after - place
        down = slice(rows.lead, rows.lead + count * rows.cell)
        cells = strip.known[down, across].reshape(count, rows.cell, columns.length, columns.cell)
        values = sums[:, :count, inside] / (rows.total[place:after, None] * columns.total)
        sums[:, : len(rows.taper) - count] = sums[:, count:]
        sums[:, len(rows.taper) - count :] = 0
        images = {name: image[:, down, across] for name, image in strip.images.items()}
        yield Part(place, columns.first, values, cells.mean(axis=(1, 3)) >= 0.5, images, len(columns.starts))


def ahead(source: Iterator, depth: int = 1) -> Iterator:
    """The same items, made by a thread that is up to `depth` of them ahead; it ends when this iterator is closed."""
    items: queue.SimpleQueue = queue.SimpleQueue()
    wanted = threading.Semaphore(depth)
    stopped = threading.Event()

    def work() -> None:
        try:
            with contextlib.closing(source):
                while wanted.acquire() and not stopped.is_set():
                    items.put((next(source), None))
        except BaseException as error:  # StopIteration too: raised again where the items are wanted
            items.put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if isinstance(error, StopIteration):
                return
            if error:
                raise error
            wanted.release()
            yield item
    finally:
        stopped.set()
        wanted.release()
        thread.join()
