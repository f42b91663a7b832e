"""How much a difference of rsum depends on which test images were picked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aoq_ext.metrics import RECALL_LEVELS

_RESAMPLES = 2000
_COVERAGE = 95.0

Ranks = tuple[NDArray[np.int64], NDArray[np.int64]]  # (N,) of the images and (M,) of the captions, from 1


def rsum_interval(before: Ranks, after: Ranks, caption_image: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """A paired bootstrap over images, each drawn with its captions: the middle 95 % of the rsum differences.

    The candidates stay as they are; only the queries that count are resampled.

    Args:
        caption_image: (M,) the image of each caption.
    """
    count = len(before[0])
    captions = np.bincount(caption_image, minlength=count)  # (N,)
    image_gain = _hits(after[0]) - _hits(before[0])  # (N,)
    caption_gain = np.bincount(caption_image, weights=_hits(after[1]) - _hits(before[1]), minlength=count)  # (N,)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)  # (R, N)
    differences = 100.0 * (weights @ image_gain / count + weights @ caption_gain / (weights @ captions))
    tail = (100.0 - _COVERAGE) / 2
    low, high = np.percentile(differences, [tail, 100.0 - tail])
    return float(low), float(high)


def _hits(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many of R@1, R@5, R@10 each query counts for."""
    hits: NDArray[np.float64] = np.stack([ranks <= level for level in RECALL_LEVELS]).sum(axis=0, dtype=np.float64)
    return hits
