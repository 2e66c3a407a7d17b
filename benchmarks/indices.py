"""Cost of the indices per 256x256 patch on one core, against scikit-image and NumPy in the same run.

    python -m benchmarks.indices

Times are those of the processor (all threads together), so other work on the machine distorts them little. The peers
compute eNDVI one pixel at a time: they are timed on a sample of the pixels, and the time of a patch is extrapolated.
Exits with status 1 where eNDVI costs more than its limit or differs from scikit-image.
"""

import math
import sys
import time

import numpy as np
import tensorflow as tf
from skimage.feature import graycomatrix

from tfrs.indices import HARALICK, INDICES, needed
from tfrs.models.indices import Indices
from tfrs.sensors import INPUTS

SIZE, BATCH, REPEATS, SAMPLE = 256, 8, 20, 500
LIMIT = 5.0  # milliseconds of one core per patch
LEVELS, MARGIN = HARALICK.levels, HARALICK.window // 2


def milliseconds(function) -> float:
    """Processor time of a call, the lowest of several."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def layer(names: list[str], images: np.ndarray, bands: tuple[str, ...]):
    """The layer in a graph, compiled, and a function that runs it on the batch."""
    graph = tf.function(Indices(bands, names, nodata=0))
    batch = tf.constant(images)
    start = time.perf_counter()
    graph(batch)
    print(f"{', '.join(names)}: first call {time.perf_counter() - start:.2f} s (compilation)")
    return lambda: graph(batch)


def scikit_image(grey: np.ndarray, row: int, column: int) -> float:
    """Entropy around a pixel in nats by `graycomatrix`, all offsets in one call."""
    part = grey[max(0, row - MARGIN) : row + MARGIN + 1, max(0, column - MARGIN) : column + MARGIN + 1]
    counts = graycomatrix(part, [1], [0, math.pi / 4, math.pi / 2, 3 * math.pi / 4], LEVELS, symmetric=True).sum(axis=(2, 3))
    share = counts[counts > 0] / counts.sum()
    return -(share * np.log(share)).sum()


def bincount(grey: np.ndarray, row: int, column: int) -> float:
    """The same by slices of the window and `numpy.bincount`."""
    part = grey[max(0, row - MARGIN) : row + MARGIN + 1, max(0, column - MARGIN) : column + MARGIN + 1].astype(int)
    pairs = [(part[:, :-1], part[:, 1:]), (part[:-1, :-1], part[1:, 1:]), (part[:-1], part[1:]), (part[:-1, 1:], part[1:, :-1])]
    codes = np.concatenate([(LEVELS * a + b).ravel() for a, b in pairs])
    counts = np.bincount(codes, minlength=LEVELS**2).reshape(LEVELS, LEVELS)
    counts = counts + counts.T
    share = counts[counts > 0] / counts.sum()
    return -(share * np.log(share)).sum()


def main() -> int:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(0)
    bands = needed(INDICES)
    images = rng.integers(200, 6000, (BATCH, len(bands), SIZE, SIZE)).astype(np.uint16)

    costs = {}
    named = [channel for channel in INPUTS["irrg_index"]["s2"] if channel in INDICES]
    for names in (["eNDVI"], named, list(INDICES)):
        run = layer(names, images, bands)
        costs[", ".join(names)] = milliseconds(run) / BATCH
    entropy = layer(["eNDVI"], images, bands)().numpy()[0, :, :, 0] * math.log(LEVELS**2)

    nir, red = (images[0, bands.index(band)].astype(float) for band in ("B08", "B04"))
    grey = np.minimum((((nir - red) / (nir + red) + 1) / 2 * LEVELS).astype(np.uint8), LEVELS - 1)
    pixels = rng.integers(0, SIZE, (SAMPLE, 2)).tolist()
    own = costs["eNDVI"]
    failed = own > LIMIT
    print(f"\nms of one core per {SIZE}x{SIZE} patch, batch of {BATCH}, {LEVELS} levels, window {HARALICK.window}")
    for names, cost in costs.items():
        print(f"  tfrs {names}: {cost:.2f}")
    for peer in (scikit_image, bincount):
        start = time.process_time()
        found = [peer(grey, *pixel) for pixel in pixels]
        cost = 1000 * (time.process_time() - start) * SIZE**2 / SAMPLE
        difference = max(abs(value - entropy[tuple(pixel)]) for value, pixel in zip(found, pixels, strict=True))
        failed |= difference > 1e-5
        print(
            f"  {peer.__name__} eNDVI: {cost:,.0f}, extrapolated from {SAMPLE} pixels; "
            f"{cost / own:,.0f} times that of tfrs; greatest difference {difference:.1e}"
        )
    print(f"eNDVI {'FAILS' if failed else 'ok'}: limit {LIMIT:g} ms")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
