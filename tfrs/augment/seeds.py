"""Seeds of samples: from key and epoch alone, so that a sample is augmented alike whatever way it comes."""

import zlib
from collections.abc import Iterable

import numpy as np


def of(keys: Iterable[bytes], seed: int, epoch: int) -> np.ndarray:
    """One 64-bit seed per sample."""
    hashed = np.array([zlib.crc32(key) for key in keys], np.uint64) << np.uint64(32)
    return mix(hashed | np.uint64(epoch)) ^ np.uint64(seed)


def again(seeds: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Seeds of samples that came so many times (B,) before in the epoch: other ones for each turn."""
    return seeds ^ turns.astype(np.uint64) << np.uint64(32)  # the seed of the run is below


def mix(seeds: np.ndarray) -> np.ndarray:
    """Well-mixed 64 bits per seed (SplitMix64, Steele et al. 2014)."""
    z = seeds.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seeds: np.ndarray) -> np.ndarray:
    """One number in [0, 1) per seed."""
    return (mix(seeds) >> np.uint64(11)) * 2.0**-53
