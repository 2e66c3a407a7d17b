"""Splits of patches by their place: at random, in blocks, and without neighbours across."""

import numpy as np

BLOCK = 20_560.0  # metres: eight patches of MultiSenGE; smaller blocks would lose more patches along their edges


def draw(rng: np.random.Generator, available: np.ndarray, share: float) -> np.ndarray:
    """Mask (N,) of `share` of the patches in the mask `available`, chosen one by one."""
    chosen = np.zeros(len(available), bool)
    pool = np.flatnonzero(available)
    chosen[rng.permutation(pool)[: round(share * len(pool))]] = True
    return chosen


def draw_blocks(rng: np.random.Generator, available: np.ndarray, share: float, centers: np.ndarray) -> np.ndarray:
    """Mask (N,) of about `share` of the patches in the mask `available`, chosen in square blocks of `BLOCK` metres.

    Args:
        centers: Centres (N, 2) of the patches in metres.
    """
    cells = np.floor(centers / BLOCK).astype(np.int64)
    _, block = np.unique(cells, axis=0, return_inverse=True)
    counts = np.bincount(block[available], minlength=block.max() + 1)
    order = rng.permutation(len(counts))
    # A block is taken when more than half of it fits into the share.
    middle = np.cumsum(counts[order]) - counts[order] / 2
    taken = np.zeros(len(counts), bool)
    taken[order] = middle < share * counts.sum()
    return taken[block] & available


def near(centers: np.ndarray, chosen: np.ndarray, reach: float) -> np.ndarray:
    """Mask (N,) of the patches whose centre is within `reach` of that of a patch in the mask `chosen`."""
    close = np.zeros(len(centers), bool)
    for center in centers[chosen]:
        close |= ((centers - center) ** 2).sum(axis=1) <= reach**2
    return close
