"""Tasks of SatImNet: water, built-up and other per pixel, alone or beside the class of the patch (Syrris et al. 2020)."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfrs import losses
from tfrs.errors import UserError
from tfrs.labels import EUROSAT, IGNORE, MASKS, WATER_BUILT_UP, Scheme, merged_ids
from tfrs.records import Records
from tfrs.segmentation import Segmentation
from tfrs.tasks import known_scheme

COVERS = len(WATER_BUILT_UP.classes)
# The class of every pixel and that of the patch around it, side by side, as CNN-dual gives them.
_CLASSES, _COLORS = WATER_BUILT_UP.classes + EUROSAT.classes, WATER_BUILT_UP.colors + EUROSAT.colors
DUAL = Scheme("dual", _CLASSES, tuple(range(1, 1 + len(_CLASSES))), _COLORS)


@dataclass(frozen=True)
class Aggregate(Segmentation):
    """Water, built-up or other for every pixel, from the class of its patch and the masks that the records have.

    `labels.MERGES` and `labels.MASKS` say how. A record without masks has the class of its patch everywhere.
    """

    name = "aggregate"

    def target(self, columns):
        ids = tf.gather(np.array(merged_ids(self.source, WATER_BUILT_UP.name), np.uint8), columns["label"])[:, None, None]
        for name, (layer, values) in MASKS.items():
            if layer in columns:
                mask = columns[layer][:, 0]
                outside = (mask != 0) & tf.reduce_all([mask != value for value in values], axis=0)
                own = ids == WATER_BUILT_UP.classes.index(name)
                ids = tf.where(own & outside, tf.constant(WATER_BUILT_UP.classes.index("Other"), tf.uint8), ids)
        return ids


@dataclass(frozen=True)
class Dual(Aggregate):
    """Two classes for every pixel: that of `Aggregate`, and the class of its patch; the losses of both are summed.

    Target: both ids in one, cover + 3 * class of the patch. Logits and probabilities: those of the three covers, then those
    of the ten classes. The confusion matrix has a block for each.
    """

    name = "dual"

    @property
    def heads(self):
        return {"probabilities": WATER_BUILT_UP, "patch_class": EUROSAT}

    def target(self, columns):
        label = tf.cast(columns["label"], tf.uint8)[:, None, None]
        return super().target(columns) + tf.cast(COVERS, tf.uint8) * label

    def loss(self, target, logits):
        return tf.add_n([super(Dual, self).loss(ids, part) for ids, part in zip(_parts(target), _split(logits), strict=True)])

    def probabilities(self, logits):
        return tf.concat([tf.nn.softmax(part) for part in _split(logits)], -1)

    def confusion(self, target, logits, weight):
        blocks = [
            super(Dual, self).confusion(ids, part, weight) for ids, part in zip(_parts(target), _split(logits), strict=True)
        ]
        return tf.linalg.LinearOperatorBlockDiag([tf.linalg.LinearOperatorFullMatrix(block) for block in blocks]).to_dense()

    def maps(self, target, probabilities):
        covers, classes = _parts(target)
        found_covers, found_classes = (np.argmax(part, -1).astype(np.uint8) for part in _split(probabilities))
        return {
            "reference": np.asarray(covers),
            "predicted": found_covers,
            "class": np.where(target == IGNORE, IGNORE, np.asarray(classes) + COVERS).astype(np.uint8),
            "predicted class": found_classes + COVERS,
        }


def _parts(target):
    """Target of each head: class ids (B, H, W) in uint8, IGNORE where there is none."""
    ignored = target == IGNORE
    return tf.where(ignored, target, target % COVERS), tf.where(ignored, target, target // COVERS)


def _split(logits):
    return logits[..., :COVERS], logits[..., COVERS:]


TASKS = {Aggregate.name: (Aggregate, WATER_BUILT_UP), Dual.name: (Dual, DUAL)}


def create(records: Records, name: str, *, loss: str, label_smoothing: float) -> Segmentation:
    """The task `name` of `TASKS` on records with a label of EuroSAT's classes.

    Args:
        loss: A sum of `losses.LOSSES`, for each head.

    Raises:
        UserError: The records have no such label, or the loss is unknown.
    """
    kind, scheme = TASKS[name]
    field = records.schema.fields.get("label")
    if field is None or field.scheme != EUROSAT.name:
        raise UserError(
            f"{records.directory}: no label with the classes of EuroSAT; --task={name} needs records of eurosat, eurosat_rgb "
            "or fusion, with --aux gsw=...,esm=... for masks of water and built-up"
        )
    layers = [layer for layer, _ in MASKS.values() if layer in records.schema.fields]
    source = known_scheme(records.schema, "label").name
    return kind(scheme, ("label", *layers), source, terms=losses.parse(loss), label_smoothing=label_smoothing)
