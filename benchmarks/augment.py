"""Cost of each augmentation of a batch on one core, as a multiple of one copy of the batch; rotation also against SciPy.

    python -m benchmarks.augment

Times are those of the processor (all threads together), so other work on the machine distorts them little.
"""

import time

import numpy as np
import scipy.ndimage

from tfrs import ops
from tfrs.augment.layers import Layer
from tfrs.augment.seeds import mix

COUNT, BANDS, SIZE, REPEATS = 16, 13, 256, 7
SPECS = [
    *("dihedral", "crop:128", "resized_crop:128", "resized_crop:256", "rotate", "noise", "brightness", "contrast"),
    *("band_dropout", "cutout:64", "mixup", "cutmix", "speckle"),
]


def milliseconds(function, *arguments) -> float:
    """Processor time of a call on copies of the arguments, the lowest of several."""
    times = []
    for _ in range(REPEATS):
        copies = [argument.copy() for argument in arguments]
        start = time.process_time()
        function(*copies)
        times.append(time.process_time() - start)
    return 1000 * min(times)


def main() -> None:
    rng = np.random.default_rng(0)
    s2 = rng.integers(1, 10_000, (COUNT, BANDS, SIZE, SIZE)).astype(np.uint16)
    s1 = rng.normal(-12, 4, (COUNT, 2, SIZE, SIZE)).astype(np.float32)
    seeds = mix(np.arange(COUNT, dtype=np.uint64))
    layers = {
        "s2": Layer(0, np.full(BANDS, 1500.0), np.full(BANDS, 500.0)),
        "s1": Layer(np.nan, np.full(2, -12.0), np.full(2, 4.0), decibels=True),
    }
    print(f"s2: {COUNT} patches, {BANDS} bands, {SIZE}x{SIZE}, uint16; speckle: s1, 2 bands float32")
    print(f"{'':18} {'ms/batch':>9} {'copies of the batch':>20}")
    copies = {name: milliseconds(np.copy, batch) for name, batch in (("s2", s2), ("s1", s1))}
    for spec in SPECS:
        name, batch = ("s1", s1) if spec == "speckle" else ("s2", s2)
        chain = ops.parse([spec], {name: layers[name]})
        spent = milliseconds(lambda image, n=name, c=chain: ops.apply(c, {n: image}, seeds), batch)
        print(f"{spec:18} {spent:9.1f} {spent / copies[name]:20.1f}")
    chain = ops.parse(["rotate"], {"s2": layers["s2"]})
    ours = milliseconds(lambda image: ops.apply(chain, {"s2": image[:1]}, seeds[:1]), s2[:1])
    peer = milliseconds(lambda image: [scipy.ndimage.rotate(band, 30, reshape=False, order=1) for band in image[0]], s2[:1])
    print(f"rotation of a patch: {ours:.1f} ms; by scipy.ndimage.rotate, for which 0 is a value: {peer:.1f} ms")


if __name__ == "__main__":
    main()
