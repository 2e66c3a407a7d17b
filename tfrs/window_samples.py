"""Training on windows of patches, cut in the graph: the window around a pixel, and the class of that pixel."""

import itertools

import numpy as np
import tensorflow as tf

from tfrs.errors import UserError
from tfrs.labels import IGNORE
from tfrs.pipeline import finish


def cut_windows(
    dataset: tf.data.Dataset,
    *,
    margin: int,
    count: int,
    balanced: bool,
    seed: int,
    epoch: int = 0,
    step: int = 0,
    steps: int = 0,
) -> tf.data.Dataset:
    """Batches of windows of 2 margin + 1 pixels from batches of patches; each lies in its patch as a whole.

    Args:
        dataset: As of `pipeline.load`, with the target (B, H, W) of dense labels.
        count: Windows drawn per patch, without replacement. 0: all of them, as whole patches, of whose pixels a network
            without padding labels those that have a window: the same function of each window, of which those that overlap
            share what they have in common. Batch normalisation counts a pixel once, and dropout drops it for all of them.
        balanced: Draw from all pixels of the batch, each class that is there as often as every other as long as it lasts.
        seed: With the number of the batch, the seed of the draw.
        epoch: Number of the first epoch, to continue a run.
        step: Number of the first batch of that epoch, at which the dataset begins.
        steps: Batches of a whole epoch, which a dataset that begins at a step does not tell.

    Returns:
        Dataset of ({sensor: (B count, C, 2 margin + 1, 2 margin + 1)}, target (B count, 1, 1), weight (B count,)), or with all
        windows of (images, target (B, H - 2 margin, W - 2 margin), weight).

    Raises:
        UserError: A patch has fewer windows.
    """
    steps = steps or len(dataset)
    inner = slice(margin, -margin)
    height, width = dataset.element_spec[1].shape[1:]
    side = 2 * margin + 1
    if not (there := max(height - 2 * margin, 0) * max(width - 2 * margin, 0)) or count > there:
        raise UserError(
            f"--windows={count}: a patch of {height}x{width} pixels has {there} of {2 * margin + 1}x{2 * margin + 1}"
        )
    if not count:
        return finish(
            dataset.map(lambda images, target, weight: (images, target[:, inner, inner], weight)), None if step else steps
        )
    epochs = itertools.chain([(epoch, step)], ((number, 0) for number in itertools.count(epoch + 1)))

    def numbered(epoch, step):
        return tf.data.Dataset.zip(tf.data.Dataset.range(epoch * steps + step, (epoch + 1) * steps), dataset)

    def cut(number, batch):
        images, target, weight = batch
        patch, row, column = _draw(target[:, inner, inner], count, balanced, tf.stack([tf.cast(seed, tf.int64), number]))
        cut = {name: _window(image, patch, row, column, side) for name, image in images.items()}
        found = tf.gather_nd(target[:, inner, inner], tf.stack([patch, row, column], 1))
        return cut, found[:, None, None], tf.gather(weight, patch)

    numbers = tf.data.Dataset.from_generator(lambda: [next(epochs)], output_signature=(tf.TensorSpec([], tf.int64),) * 2)
    return finish(numbers.flat_map(numbered).map(cut, num_parallel_calls=2), None if step else steps)


def _draw(target: tf.Tensor, count: int, balanced: bool, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Patch, row and column (B count,) of pixels of a target (B, H, W), of different ones; those without a class come last.

    The largest of log weight + Gumbel noise are a draw without replacement by these weights (Efraimidis & Spirakis 2006).
    """
    batch, height, width = target.shape
    ids = tf.reshape(tf.cast(target, tf.int32), [-1])
    counts = tf.cast(tf.math.bincount(ids, minlength=256), tf.float32)
    weights = tf.where(tf.range(256) == IGNORE, 1e-30, tf.math.divide_no_nan(1.0, counts) if balanced else 1.0)
    noise = -tf.math.log(-tf.math.log(tf.random.stateless_uniform(tf.shape(ids), seed, minval=1e-30)))
    groups = 1 if balanced else batch
    scores = tf.reshape(tf.math.log(tf.gather(weights, ids)) + noise, (groups, -1))
    _, chosen = tf.math.top_k(scores, batch * count // groups, sorted=False)
    chosen = tf.reshape(chosen + tf.range(groups)[:, None] * scores.shape[1], [-1])
    return chosen // (height * width), chosen // width % height, chosen % width


def _window(image: tf.Tensor, patch: tf.Tensor, row: tf.Tensor, column: tf.Tensor, side: int) -> tf.Tensor:
    """Windows (N, C, side, side) of an image (B, C, H, W) from their upper left corners."""
    grid = np.arange(side, dtype=np.int32)
    rows, columns = row[:, None, None] + grid[:, None], column[:, None, None] + grid
    places = tf.stack([tf.broadcast_to(at, (len(patch), side, side)) for at in (patch[:, None, None], rows, columns)], -1)
    # Band by band: TensorFlow transposes uint16 slowly on CPUs, and says so.
    return tf.stack([tf.gather_nd(band, places) for band in tf.unstack(image, axis=1)], axis=1)
