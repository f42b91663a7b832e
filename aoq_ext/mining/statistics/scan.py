"""The one pass over a direction's lists from which its statistics are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .blocks import BLOCK_ELEMENTS, blocks
from .direction import Direction

TOP = 10  # the short list that hardness and hubness also look at
_CURVE_POINTS = 28


@dataclass(frozen=True, eq=False)
class Scan:
    """A anchors, C candidates, lists of k, R ranks looked at."""

    lengths: NDArray[np.int64]  # (A,) negatives listed
    ranks: NDArray[np.int64]  # (R,) from 1 to k, ascending, always with 1, min(10, k) and k
    at_rank: NDArray[np.float32]  # (A, R) the score at that rank; -inf where the list is shorter
    hardest: NDArray[np.int64]  # (A,) the first candidate; -1 for an empty list
    occurrences: NDArray[np.int64]  # (C,) lists in which a candidate appears
    top_occurrences: NDArray[np.int64]  # (C,) the same for the first min(10, k) places
    suspects: NDArray[np.int64]  # (A,) negatives that score above the anchor's best positive
    suspects_at: NDArray[np.int64]  # (k,) anchors whose negative at this rank scores above
    listed_at: NDArray[np.int64]  # (k,) anchors with a known positive and a negative at this rank
    unusable: int  # entries without a finite score or an existing candidate
    unordered: int  # anchors whose scores rise somewhere along the list

    def score_at(self, rank: int) -> NDArray[np.float32]:
        """(at most A,) the scores at one of `ranks`, of the anchors that have one."""
        column = self.at_rank[:, int(np.searchsorted(self.ranks, rank))]
        return column[np.isfinite(column)]


def scan(direction: Direction, elements: int = BLOCK_ELEMENTS) -> Scan:
    """Everything counted exactly, over all rows; memory grows with A + C, not with A · k."""
    count, k, candidates = direction.anchor_count, direction.lists.k, direction.candidate_count
    ranks = _ranks(k)
    lengths, hardest = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    at_rank = np.full((count, len(ranks)), -np.inf, np.float32)
    occurrences, top_occurrences = np.zeros(candidates, np.int64), np.zeros(candidates, np.int64)
    suspects, suspects_at, listed_at = np.zeros(count, np.int64), np.zeros(k, np.int64), np.zeros(k, np.int64)
    unusable = unordered = 0
    for block in blocks(direction.lists, candidates, elements):
        rows, present = block.rows, block.indices >= 0
        lengths[rows] = present.sum(axis=1)
        hardest[rows] = block.indices[:, 0]
        at_rank[rows] = block.scores[:, ranks - 1]
        occurrences += np.bincount(block.indices[present], minlength=candidates)
        top = block.indices[:, :TOP]
        top_occurrences += np.bincount(top[top >= 0], minlength=candidates)
        unusable += block.unusable
        unordered += int((block.scores[:, 1:] > block.scores[:, :-1]).any(axis=1).sum())
        if direction.positive is not None:
            positive = direction.positive[rows, None]
            above = block.scores > positive  # never above an unknown positive, which is NaN
            suspects[rows] = above.sum(axis=1)
            suspects_at += above.sum(axis=0)
            listed_at += (present & np.isfinite(positive)).sum(axis=0)
    return Scan(
        lengths,
        ranks,
        at_rank,
        hardest,
        occurrences,
        top_occurrences,
        suspects,
        suspects_at,
        listed_at,
        unusable,
        unordered,
    )


def _ranks(k: int) -> NDArray[np.int64]:
    spread = np.rint(np.geomspace(1, k, _CURVE_POINTS)).astype(np.int64)
    return np.unique(np.concatenate([spread, np.array([1, min(TOP, k), k], np.int64)]))
