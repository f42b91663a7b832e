"""Rows of lists that may be larger than memory, a block or a sample at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .data import RankedLists

BLOCK_ELEMENTS = 1 << 21
SEED = 0


@dataclass(frozen=True)
class Block:
    """R rows of the lists with everything unusable made to look absent."""

    rows: slice
    indices: NDArray[np.int64]  # (R, k); -1 where absent
    scores: NDArray[np.float32]  # (R, k); -inf where absent
    unusable: int  # entries that name a candidate but have no finite score, or name none that exists


def blocks(lists: RankedLists, candidates: int, elements: int = BLOCK_ELEMENTS) -> Iterator[Block]:
    """All rows in order. `elements`: how many entries a block may hold (at least one row is taken)."""
    assert lists.scores is not None
    count, k = lists.indices.shape
    step = max(1, elements // k)
    for start in range(0, count, step):
        rows = slice(start, min(count, start + step))
        indices = np.asarray(lists.indices[rows]).astype(np.int64)
        scores = np.asarray(lists.scores[rows]).astype(np.float32)
        named = indices >= 0
        present = named & (indices < candidates) & np.isfinite(scores)
        unusable = int(np.count_nonzero(named)) - int(np.count_nonzero(present))
        np.copyto(indices, -1, where=~present)
        np.copyto(scores, -np.inf, where=~present)
        yield Block(rows, indices, scores, unusable)


def sample_rows(count: int, most: int) -> NDArray[np.int64]:
    """All rows, or `most` of them drawn with the fixed seed, in ascending order."""
    if count <= most:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False)).astype(np.int64)
