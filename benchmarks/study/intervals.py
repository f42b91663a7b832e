"""Differences of paired runs, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from numpy.typing import NDArray

from aoq_ext.metrics import RECALL_LEVELS, RetrievalRanks

# The 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL = 1.960


@dataclass(frozen=True)
class Difference:
    """Of a measure between two arms, over the seeds they have in common."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def gained(self) -> int:
        return sum(value > 0 for value in self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, Student's t; without end where there is one seed alone."""
        count = len(self.values)
        if count < 2:
            return -math.inf, math.inf
        quantile = _T[count - 2] if count - 2 < len(_T) else _NORMAL
        half = quantile * stdev(self.values) / math.sqrt(count)
        return self.mean - half, self.mean + half

    @property
    def verdict(self) -> str:
        low, high = self.interval
        return "gains" if low > 0 else "loses" if high < 0 else "no difference that stands out of the noise"


def over_test_images(
    ours: Sequence[RetrievalRanks], theirs: Sequence[RetrievalRanks], resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the difference of rsum, averaged over the seeds.

    As `RetrievalRanks.bootstrap` has it for one seed: drawn are images with all their texts, the same for every seed
    and either side, so this is the doubt that is left about these runs, not about others.
    """
    owner = ours[0].text_image_index.numpy()
    images = len(ours[0].i2t)
    gain = [sum(_hits(ranks, way) for ranks in ours) - sum(_hits(ranks, way) for ranks in theirs) for way in range(2)]
    forward = gain[0] / len(ours)  # (N,) recalls, added up over their levels
    backward = np.bincount(owner, weights=gain[1] / len(ours), minlength=images)
    texts = np.bincount(owner, minlength=images)
    generator = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for number in range(resamples):
        counts = np.bincount(generator.integers(images, size=images), minlength=images)
        drawn[number] = counts @ forward / images + counts @ backward / (counts @ texts)
    low, high = np.quantile(100 * drawn, [0.025, 0.975])
    return float(low), float(high)


def _hits(ranks: RetrievalRanks, way: int) -> NDArray[np.float64]:
    """(Q,) at how many of the levels each query is answered."""
    values = (ranks.i2t, ranks.t2i)[way].numpy()
    return sum((values <= level).astype(np.float64) for level in RECALL_LEVELS)  # type: ignore[return-value]
