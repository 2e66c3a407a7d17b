"""Reference for the entropy of grey-level co-occurrence: scikit-image, one window at a time."""

import math

import numpy as np
from skimage.feature import graycomatrix


def reference(grey, levels, window, offsets):
    """-sum p log p of `graycomatrix` of each pixel's window, clipped at the edge; no data is a level that is cut away."""
    found, margin = np.zeros(grey.shape), window // 2
    grey = np.where(grey < 0, levels, grey).astype(np.uint8)
    for row, column in np.ndindex(grey.shape):
        part = grey[max(0, row - margin) : row + margin + 1, max(0, column - margin) : column + margin + 1]
        counts = sum(
            graycomatrix(part, [math.hypot(*offset)], [math.atan2(*offset)], levels + 1, symmetric=True)[..., 0, 0]
            for offset in offsets
        )[:levels, :levels].astype(float)
        share = counts[counts > 0] / max(counts.sum(), 1)
        found[row, column] = -(share * np.log(share)).sum()
    return found
