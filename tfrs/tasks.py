"""What a model learns: the target, the loss, the decision and its confusion matrix."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfrs import metrics
from tfrs.errors import UserError, unknown
from tfrs.labels import MERGES, SCHEMES, Scheme, merge_matrix
from tfrs.schema import Schema


@dataclass(frozen=True)
class Task(ABC):
    """Attributes: the `scheme` of the classes, and the `columns` (labels of the record index, or maps) that make the target."""

    name: ClassVar[str]
    dense: ClassVar[bool] = False  # a class per pixel, not per patch
    scheme: Scheme
    columns: tuple[str, ...]

    @property
    def heads(self) -> dict[str, Scheme]:
        """Classes of each output of an exported model by its name; together, in order, those of `scheme` and of the logits."""
        return {"probabilities": self.scheme}

    @abstractmethod
    def target(self, columns: dict[str, tf.Tensor]) -> tf.Tensor:
        """The target of a batch from its columns."""

    def soft(self, target: tf.Tensor) -> tf.Tensor:
        """A target of patches as shares (B, classes) in float32, which can be mixed and which `loss` takes as well."""
        return target

    def size(self, target: tf.Tensor) -> tf.Tensor:
        """How much each sample (B,) has to be learned from: its weight in mean losses."""
        return tf.ones(tf.shape(target)[:1])

    @abstractmethod
    def loss(self, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Loss (B,) of each sample."""

    @abstractmethod
    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Probabilities (B, classes)."""

    @abstractmethod
    def confusion(self, target: tf.Tensor, logits: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """Confusion matrix of a batch, as `metrics.scores` takes it."""

    @abstractmethod
    def decode(self, values: np.ndarray) -> list[str]:
        """Names of the classes that a row (classes,) of probabilities, or a target, stands for."""


@dataclass(frozen=True)
class SingleLabel(Task):
    """One class per patch: softmax and categorical cross-entropy.

    Attributes:
        label_smoothing: Share of the target spread over all classes.
        source: Scheme of the records' labels; merged into `scheme`.
    """

    name = "single_label"
    label_smoothing: float = 0.0
    source: str = ""

    def target(self, columns):
        if self.source == self.scheme.name:
            return columns["label"]
        return tf.gather(np.array(MERGES[self.source, self.scheme.name], np.int64), columns["label"])

    def soft(self, target):
        return tf.one_hot(target, len(self.scheme.classes))

    def loss(self, target, logits):
        smooth = self.label_smoothing
        shares = self.soft(target) if target.dtype.is_integer else target
        hot = shares * (1 - smooth) + smooth / logits.shape[-1]
        return keras.losses.categorical_crossentropy(hot, logits, from_logits=True)

    def probabilities(self, logits):
        return tf.nn.softmax(logits)

    def confusion(self, target, logits, weight):
        return metrics.confusion(target, tf.argmax(logits, -1), weight, len(self.scheme.classes))

    def decode(self, values):
        return [self.scheme.classes[int(values) if np.ndim(values) == 0 else int(np.argmax(values))]]


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of classes per patch: sigmoids and binary cross-entropy, mean over the classes.

    Attributes:
        threshold: Fraction of the patch above which a class is a label, where the records have fractions.
        inclusive: A fraction equal to the threshold is a label too, as in the authors' code (the paper says "larger").
        source: Scheme of the labels or fractions; merged into `scheme`, fractions before the threshold.
    """

    name = "multi_label"
    threshold: float = 0.1
    inclusive: bool = False
    source: str = ""

    def target(self, columns):
        (values,) = columns.values()
        sums = tf.cast(values, tf.float32)
        if self.source != self.scheme.name:
            sums = tf.matmul(sums, merge_matrix(self.source, self.scheme.name))
        if "labels" in columns:
            return tf.cast(sums > 0, tf.float32)
        # Counts of pixels in float32: a tolerance below one pixel of 256x256 keeps "exactly 10 %" exact.
        tolerance = -1e-6 if self.inclusive else 1e-6
        return tf.cast(sums > self.threshold + tolerance, tf.float32)

    def loss(self, target, logits):
        return keras.losses.binary_crossentropy(target, logits, from_logits=True)

    def probabilities(self, logits):
        return tf.nn.sigmoid(logits)

    def confusion(self, target, logits, weight):
        return metrics.confusion_multi_label(target, logits >= 0, weight)  # sigmoid >= 0.5

    def decode(self, values):
        return [name for name, value in zip(self.scheme.classes, values, strict=True) if value >= 0.5]


# --labels -> the field of the records that multi-labels are made from.
LABELS = {"stored": "labels", "fractions": "fractions"}

TASKS = {task.name: task for task in (MultiLabel, SingleLabel)}


def create(
    name: str,
    schema: Schema,
    *,
    threshold: float,
    inclusive: bool,
    label_smoothing: float,
    labels: str = "",
    scheme: str = "",
) -> Task:
    """The task `name` on records of this schema; an empty name takes multi-label where the records allow it.

    Args:
        labels: What multi-labels are made from: `fractions`, or `stored`, the labels of the records. Empty: stored where
            the records have no fractions, or both are of one scheme, so that the labels are no merged fractions.
        scheme: Scheme that the records' classes are merged into. Empty: that of the records' own labels.

    Raises:
        UserError: A name is unknown, or the records lack the labels or a merge of their classes.
    """
    kinds = {spec.kind: field for field, spec in schema.fields.items() if spec.scheme and spec.kind != "raster"}
    name = name or ("multi_label" if {"labels", "fractions"} & kinds.keys() else "single_label")
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    if name == "single_label":
        if "label" not in kinds:
            raise UserError(f"the records have no single label ({', '.join(kinds)}); use --task=multi_label")
        source = known_scheme(schema, "label")
        return SingleLabel(merged(source, scheme), ("label",), label_smoothing, source.name)
    if label_smoothing:
        raise UserError("--label_smoothing is for --task=single_label; multi-labels are not smoothed")
    if not {"labels", "fractions"} & kinds.keys():
        raise UserError(f"the records have one label per patch ({', '.join(kinds)}); use --task=single_label")
    if (labels := labels or _usual_labels(schema)) not in LABELS:
        raise unknown("source of labels", labels, LABELS)
    if (field := LABELS[labels]) not in kinds:
        raise UserError(f"--labels={labels}: the records have no {field}, only {', '.join(kinds)}")
    source = known_scheme(schema, field)
    if field == "fractions":
        usual = schema.fields["labels" if "labels" in kinds else "fractions"].scheme
        return MultiLabel(merged(source, scheme or usual), (field,), threshold, inclusive, source.name)
    if "fractions" in kinds and (threshold, inclusive) != (MultiLabel.threshold, MultiLabel.inclusive):
        raise UserError("the labels of these records are not made by a threshold; give --labels=fractions with --threshold")
    return MultiLabel(merged(source, scheme), (field,), source=source.name)


def merged(source: Scheme, name: str) -> Scheme:
    """The scheme that `source` is merged into.

    Raises:
        UserError: There is no such merge.
    """
    if name in ("", source.name):
        return source
    if (source.name, name) not in MERGES:
        targets = [source.name, *(target for origin, target in MERGES if origin == source.name)]
        raise unknown(f"scheme for classes of {source.name}", name, targets)
    return SCHEMES[name]


def _usual_labels(schema: Schema) -> str:
    schemes = {name: spec.scheme for name, spec in schema.fields.items() if name in ("labels", "fractions")}
    return "stored" if schemes.get("fractions") in (None, schemes.get("labels")) else "fractions"


def known_scheme(schema: Schema, field: str) -> Scheme:
    """The scheme of a field.

    Raises:
        UserError: The records were built with other classes than this version has.
    """
    scheme = schema.scheme(field)
    if (known := SCHEMES.get(scheme.name, scheme)) != scheme:
        raise UserError(
            f"the records were built with other classes of scheme {scheme.name!r} ({', '.join(scheme.classes)}) "
            f"than this version has ({', '.join(known.classes)}); build them again with --overwrite"
        )
    return scheme
