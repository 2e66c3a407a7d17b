"""Dense labels: a class per pixel."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfrs import losses, metrics
from tfrs.errors import UserError, unknown
from tfrs.labels import IGNORE, lookup, merge_matrix
from tfrs.records import Records
from tfrs.tasks import Task, known_scheme, merged


@dataclass(frozen=True)
class Segmentation(Task):
    """One class per pixel: softmax, and a sum of losses over the pixels that have a class.

    Target: class ids (B, H, W) uint8, `labels.IGNORE` where a pixel has none. Logits: (B, H, W, classes).

    Attributes:
        source: Scheme of the map in the records; merged into `scheme`, which has none of the `ignored` classes.
        ignored: Classes whose pixels are neither learned from nor scored, and that are never predicted.
        terms: Factor and name of each loss (`losses.parse`).
        class_weights: Weight of the pixels of each class in the losses that are means over pixels.
        label_smoothing: Share of a pixel's target spread over all classes.
    """

    name = "segmentation"
    dense = True
    source: str
    ignored: tuple[str, ...] = ()
    terms: tuple[tuple[float, str], ...] = ((1.0, "cross_entropy"),)
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0

    def target(self, columns):
        (numbers,) = columns.values()
        table = lookup(self.source, self.scheme)
        return tf.gather(table, tf.minimum(tf.cast(numbers[:, 0], tf.int32), len(table) - 1))

    def size(self, target):
        return tf.reduce_sum(_valid(target), (1, 2))

    def loss(self, target, logits):
        ids, valid = _ids(target), _valid(target)
        weights = tf.constant(self.class_weights or [1.0] * logits.shape[-1])
        return tf.add_n(
            [factor * losses.LOSSES[name](ids, logits, valid, weights, self.label_smoothing) for factor, name in self.terms]
        )

    def probabilities(self, logits):
        return tf.nn.softmax(logits)

    def confusion(self, target, logits, weight):
        predicted, weight = tf.argmax(logits, -1), _valid(target) * weight[:, None, None]
        return metrics.confusion(_ids(target), predicted, weight, logits.shape[-1])

    def maps(self, target: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
        """What a figure shows by its title: class ids (B, H, W) in uint8, of a target and of what was predicted."""
        return {"reference": target, "predicted": np.argmax(probabilities, -1).astype(np.uint8)}

    def decode(self, values):
        ids = np.argmax(values, -1) if values.ndim == 3 else values
        return [self.scheme.classes[i] for i in np.unique(ids) if i != IGNORE]


def _ids(target: tf.Tensor) -> tf.Tensor:
    """Class ids that every function takes: ignored pixels, which weigh 0, get the first."""
    return tf.where(target == IGNORE, 0, tf.cast(target, tf.int32))


def _valid(target: tf.Tensor) -> tf.Tensor:
    return tf.cast(target != IGNORE, tf.float32)


def create(
    records: Records, *, scheme: str, ignored: tuple[str, ...], loss: str, class_weights: str, label_smoothing: float
) -> Segmentation:
    """The task of labelling every pixel as the map in the records does.

    Args:
        scheme: Scheme that the map's classes are merged into. Empty: that of the records' own labels where they have some of
            another scheme, such as SEN12MS's ten simplified classes, else the map's.
        ignored: Classes whose pixels are ignored.
        loss: A sum of `losses.LOSSES`.
        class_weights: A name of `losses.CLASS_WEIGHTS`.

    Raises:
        UserError: The records have no map, a name is unknown, or a split has no pixel to learn from or to score.
    """
    schema = records.schema
    counted = records.manifest["splits"].get("train", {"classes": {}})["classes"]
    if not (maps := [name for name in schema.maps() if name in counted]):
        raise UserError(
            f"{records.directory}: no map of classes with its pixels counted in a training split (fields: "
            f"{', '.join(schema.fields)}); segmentation needs records of sen12ms, multisenge or bigearthnet_v2 with its "
            "reference maps, built by this version"
        )
    (field,) = maps
    source = known_scheme(schema, field)
    labels = [spec.scheme for name, spec in schema.fields.items() if spec.kind == "labels"]
    merged_scheme = merged(source, scheme or next(iter(labels), ""))
    for name in ignored:
        if name not in merged_scheme.classes:
            raise unknown(f"class of {merged_scheme.name}", name, merged_scheme.classes)
    if not set(merged_scheme.classes) - set(ignored):
        raise UserError(f"--ignore names all classes of {merged_scheme.name}; none is left to learn")
    chosen = merged_scheme.without(ignored)
    kept = [name in chosen.classes for name in merged_scheme.classes]
    pixels = {
        split: (np.array(content["classes"][field]) @ merge_matrix(source.name, merged_scheme.name))[kept]
        for split, content in records.manifest["splits"].items()
    }
    for split, counts in pixels.items():
        if not counts.any() and records.manifest["splits"][split]["records"]:
            raise UserError(
                f"{records.directory}: no pixel of split {split} has one of the classes {'; '.join(chosen.classes)}"
            )
    weights = losses.class_weights(pixels["train"], class_weights)
    terms = losses.parse(loss)
    if label_smoothing and not any(name in losses.SMOOTHED for _, name in terms):
        raise UserError(f"--label_smoothing has no effect on --loss={loss}; it is for {', '.join(losses.SMOOTHED)}")
    return Segmentation(chosen, (field,), source.name, tuple(ignored), terms, weights, label_smoothing)
