"""What a mining shares with an earlier one of the same anchors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .blocks import sample_rows
from .data import Indices
from .direction import Direction

MOST_ANCHORS = 20_000
_LEVELS = (1, 10, 100)


@dataclass(frozen=True, eq=False)
class Overlap:
    """L levels, the last being the shorter of the two list lengths; S anchors compared.

    Only anchors with something in either list count; NaN in an array marks the others.
    """

    levels: tuple[int, ...]
    anchors: int  # S
    sampled: bool  # S of more, by the fixed seed
    shared: NDArray[np.float64]  # (S, L) shared candidates / length of the longer of the two, both cut to the level
    jaccard: NDArray[np.float64]  # (S, L) shared candidates / different candidates in both
    correlation: NDArray[np.float64]  # (S,) Spearman's, over the candidates in both whole lists; NaN below two

    def mean_shared(self, level: int) -> float | None:
        return mean(self.shared[:, level])

    def mean_jaccard(self, level: int) -> float | None:
        return mean(self.jaccard[:, level])


def mean(values: NDArray[np.float64]) -> float | None:
    """Of what is not NaN; None where nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def overlap(direction: Direction, most: int = MOST_ANCHORS) -> Overlap | None:
    """None without an earlier mining. Beyond `most` anchors, a sample of them is compared."""
    if direction.earlier is None:
        return None
    now, before = direction.lists.indices, direction.earlier.indices
    shorter = min(now.shape[1], before.shape[1])
    levels = tuple(sorted({level for level in _LEVELS if level < shorter} | {shorter}))
    rows = sample_rows(direction.anchor_count, most)
    shared, jaccard = (np.full((len(rows), len(levels)), np.nan) for _ in range(2))
    correlation = np.full(len(rows), np.nan)
    place = np.full(direction.candidate_count, -1, np.int64)  # of a candidate in the present list; reset row by row
    for number, row in enumerate(rows):
        current = _listed(now[row], direction.candidate_count)
        former = _listed(before[row], direction.candidate_count)
        place[current] = np.arange(len(current))
        found = place[former]
        place[current] = -1
        for column, level in enumerate(levels):
            common = int(np.count_nonzero((found[:level] >= 0) & (found[:level] < level)))
            lengths = min(level, len(current)), min(level, len(former))
            if max(lengths):
                shared[number, column] = common / max(lengths)
                jaccard[number, column] = common / (sum(lengths) - common)
        correlation[number] = _spearman(found[found >= 0])
    return Overlap(levels, len(rows), len(rows) < direction.anchor_count, shared, jaccard, correlation)


def _listed(row: Indices, candidates: int) -> Indices:
    """The candidates of one list, in order."""
    whole = np.asarray(row)
    return whole[(whole >= 0) & (whole < candidates)]


def _spearman(places: NDArray[np.int64]) -> float:
    """Rank correlation of distinct `places` (n,) with their own order; NaN below two."""
    count = len(places)
    if count < 2:
        return float("nan")
    ranks = np.empty(count, np.int64)
    ranks[np.argsort(places)] = np.arange(count)
    squares = float(np.sum((ranks - np.arange(count)) ** 2))
    return 1.0 - 6.0 * squares / (count * (count * count - 1.0))
