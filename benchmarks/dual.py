"""Dense prediction of CNN-dual and CNN-segm against prediction window by window, with the same weights.

    python -m benchmarks.dual

Both label every pixel of a patch of 64x64 pixels, mirrored at its edges. The peer cuts the 5x5 window of each pixel and gives
one, or many at once, to the network without padding. Many at once are limited by arithmetic alone, of which windows that
overlap repeat what they share: for CNN-dual little, since most of its weights see the whole window.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from tfrs.models.segmenter import segmenter

SIDE, BANDS, MARGIN, REPEATS = 64, 4, 2, 5
ONE_BY_ONE = 300  # windows of which the time of all is taken
BATCHES = (32, 512, SIDE * SIDE)


def seconds(function, *arguments) -> float:
    """Time of a call, the lowest of several after a first one."""
    function(*arguments)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    rng = np.random.default_rng(0)
    patch = rng.normal(size=(SIDE, SIDE, BANDS)).astype(np.float32)
    mirrored = np.pad(patch, [(MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)], mode="reflect")
    window = 2 * MARGIN + 1
    views = np.lib.stride_tricks.sliding_window_view(mirrored, (window, window), (0, 1)).transpose(0, 1, 3, 4, 2)
    windows = views.reshape(-1, window, window, BANDS)
    for name, heads in (("cnn_dual", (3, 10)), ("cnn_segm", (3,))):
        keras.utils.set_random_seed(0)
        whole = segmenter(name, BANDS, heads, size=SIDE)
        last = "heads" if len(heads) > 1 else "logits"
        alone = keras.Model(whole.get_layer("mirror").output, whole.get_layer(last).output)
        dense = tf.function(lambda image, model=whole: model(image, training=False), reduce_retracing=True)
        single = tf.function(lambda images, model=alone: model(images, training=False), reduce_retracing=True)

        def by_windows(images, size, predict=single):
            return np.concatenate([predict(tf.constant(images[i : i + size])) for i in range(0, len(images), size)])

        at_once = seconds(lambda image, predict=dense: predict(image).numpy(), tf.constant(patch[None]))
        logits = dense(patch[None]).numpy().reshape(len(windows), -1)
        difference = np.abs(logits - by_windows(windows, 512)[:, 0, 0]).max()
        print(f"{name}: {1000 * at_once:.1f} ms a patch of {SIDE}x{SIDE}")
        print(f"  largest difference {difference:.1e}, of logits with standard deviation {logits.std():.2f}")
        one = seconds(by_windows, windows[:ONE_BY_ONE], 1) * len(windows) / ONE_BY_ONE
        print(f"  {one / at_once:6.1f} times faster than one window a call")
        for size in BATCHES:
            print(f"  {seconds(by_windows, windows, size) / at_once:6.1f} times faster than {size} windows a call")


if __name__ == "__main__":
    main()
