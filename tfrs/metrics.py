"""Scores, all derived from one streaming confusion matrix."""

import numpy as np
import tensorflow as tf


def confusion(target: tf.Tensor, predicted: tf.Tensor, weight: tf.Tensor, classes: int) -> tf.Tensor:
    """Weighted confusion matrix (classes, classes) of class ids, rows: reference, columns: predicted; float64.

    Batches and replicas add up.
    """
    return tf.math.confusion_matrix(
        tf.reshape(target, [-1]),
        tf.reshape(predicted, [-1]),
        classes,
        tf.cast(tf.reshape(weight, [-1]), tf.float64),
        tf.float64,
    )


def confusion_multi_label(target: tf.Tensor, predicted: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Weighted matrices (classes, 2, 2) of multi-hot labels (B, classes): [[TN, FP], [FN, TP]] per class; float64."""
    true, chosen = tf.cast(target, tf.float64), tf.cast(predicted, tf.float64)
    weight = tf.cast(weight, tf.float64)[:, None]
    cells = [(1 - true) * (1 - chosen), (1 - true) * chosen, true * (1 - chosen), true * chosen]
    return tf.reshape(tf.stack([tf.reduce_sum(cell * weight, 0) for cell in cells], axis=1), [-1, 2, 2])


def one_against_rest(matrix: np.ndarray) -> np.ndarray:
    """Matrices (classes, 2, 2) [[TN, FP], [FN, TP]] of a confusion matrix (classes, classes)."""
    hit = np.diag(matrix)
    false_positive, false_negative = matrix.sum(0) - hit, matrix.sum(1) - hit
    rest = matrix.sum() - hit - false_positive - false_negative
    return np.stack([rest, false_positive, false_negative, hit], axis=1).reshape(-1, 2, 2)


def scores(matrix: np.ndarray, classes: tuple[str, ...]) -> dict:
    """The scores of a report from a confusion matrix (K, K), or from multi-label matrices (K, 2, 2).

    A class without support in the reference is absent: its F1 is None, and it does not enter the averages over classes
    (average F1, average accuracy, mean IoU), as in Table 4 of Schmitt & Wu 2021. Its false positives do count in the
    overall (micro-averaged) F1.

    Returns:
        `per_class` {class: precision, recall, f1, iou, support}, `average_f1` (macro), `overall_f1` (micro), `weighted_f1`
        (by support), `average_accuracy` (mean recall), `mean_iou`, `overall_accuracy`, and for single labels `kappa`.
        With multi-labels the overall accuracy is the share of right yes/no decisions (1 - Hamming loss).
    """
    multi_label = matrix.ndim == 3
    cells = (matrix if multi_label else one_against_rest(matrix)).astype(np.float64)
    (_, fp), (fn, tp) = cells.transpose(1, 2, 0)
    support = tp + fn
    present = support > 0
    f1, iou = _ratio(2 * tp, 2 * tp + fp + fn), _ratio(tp, tp + fp + fn)
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, support)

    def average(values, weights=None):
        return float(np.average(values[present], weights=weights)) if present.any() else 0.0

    result = {
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]) if present[i] else None,
                "f1": float(f1[i]) if present[i] else None,
                "iou": float(iou[i]) if present[i] else None,
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "average_f1": average(f1),
        "overall_f1": float(_ratio(2 * tp.sum(), 2 * tp.sum() + fp.sum() + fn.sum())),
        "weighted_f1": average(f1, support[present] if present.any() else None),
        "average_accuracy": average(recall),
        "mean_iou": average(iou),
        "absent_classes": [name for i, name in enumerate(classes) if not present[i]],
        "absent_classes_count": "left out of average_f1, weighted_f1, average_accuracy and mean_iou",
    }
    if multi_label:
        result["overall_accuracy"] = float(_ratio(cells[:, [0, 1], [0, 1]].sum(), cells.sum()))
    else:
        total = matrix.sum()
        agreement = float(_ratio(np.trace(matrix), total))
        chance = float(_ratio((matrix.sum(0) * matrix.sum(1)).sum(), total**2))
        result["overall_accuracy"] = agreement
        result["kappa"] = float(_ratio(agreement - chance, 1 - chance))
    return result


def _ratio(numerator, denominator):
    """Quotient that is 0 where the denominator is."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
