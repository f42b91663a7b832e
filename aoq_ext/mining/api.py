"""Offline hard negatives: for every anchor the k best-scoring candidates that do not belong to it, exactly.

The score of a pair is defined once, for every path: the dot product summed in float64 in one fixed order
(`aoq_ext.mining.plain.ordered_dot`), rounded to float32. Scores are compared after that rounding, so the order of the
result is the order of the scores the caller sees, and equal scores are ordered by candidate index. A fast product only
decides which pairs need that sum, under a proven error bound; hence the result does not depend on panel size, thread
count, BLAS or device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _ops
from .._embeddings import check_comparable, check_finite, check_ids, check_matrix
from . import plain

# One call of an operator cannot be interrupted, so it takes only as many anchors as keep the processor busy for a
# second or two: this many multiply-adds a thread, between these limits.
_PRODUCTS_PER_THREAD = 1 << 37
_LEAST_ROWS_PER_THREAD, _MOST_ROWS_PER_THREAD = 256, 2048
_PLAIN_ROWS = 1024

_MOST_CANDIDATES = (1 << 32) - 1  # indices have 32 bits while they compete


@dataclass(frozen=True, eq=False)
class HardNegatives:
    """What `mine_hard_negatives` found, on the device of the anchors.

    Attributes:
        indices: (N, k) int64, rows of the candidates, hardest first; -1 where an anchor has fewer than k negatives.
        scores: (N, k) float32, their scores; -inf where the index is -1.
    """

    indices: Tensor
    scores: Tensor

    def __repr__(self) -> str:
        rows, k = self.indices.shape
        found = (self.indices >= 0).sum(dim=1)
        if not found.any():
            return f"HardNegatives(anchors={rows}, k={k}, no negatives)"
        hardest = self.scores[found > 0, 0]
        short = int((found < k).sum())
        return (
            f"HardNegatives(anchors={rows}, k={k}, hardest score {hardest.min():.4g} to {hardest.max():.4g}"
            + (f", {short} anchors with fewer than {k}" if short else "")
            + ")"
        )


@torch.no_grad()
def mine_hard_negatives(
    anchors: Tensor,
    candidates: Tensor,
    k: int,
    anchor_ids: Tensor | None = None,
    candidate_ids: Tensor | None = None,
) -> HardNegatives:
    """The k hardest negatives of every anchor among all candidates.

    A negative is hard when its dot product with the anchor is high, so embeddings should come normalised as the model
    compares them. Candidates that belong to the anchor (equal ids) are left out before the selection, so k are found
    wherever k exist. Memory beyond the result does not grow with N · M; float16 and bfloat16 candidates are copied to
    float32 once.

    Args:
        anchors: (N, D), float32, float16, bfloat16 or float64, any strides.
        candidates: (M, D), same dtype and device.
        k: negatives wanted per anchor, at least 1; may exceed M.
        anchor_ids: (N,) integers, and
        candidate_ids: (M,) integers: both or neither. Without them every candidate may be a negative.

    Returns:
        `HardNegatives`: ``indices`` (N, k) int64 and ``scores`` (N, k) float32, hardest first, equal scores by lower
        index; -1 and -inf where fewer than k exist.

    Raises:
        TypeError: an argument is not a tensor, has the wrong dtype, or only one of the ids is given.
        ValueError: shapes or devices disagree, k < 1, embeddings are not finite or their scores exceed float32.

    Example:
        >>> images, texts = torch.eye(3), torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.1], [0.2, 0.0, 1.0]])
        >>> mine_hard_negatives(images, texts, 1, torch.arange(3), torch.arange(3)).indices
        tensor([[2],
                [0],
                [1]])
    """
    _check(anchors, candidates, k, anchor_ids, candidate_ids)
    anchor_norm, candidate_norm = check_finite("anchors", anchors), check_finite("candidates", candidates)
    _check_scores_fit(anchor_norm, candidate_norm)
    shape = (anchors.shape[0], k)
    indices = torch.full(shape, -1, dtype=torch.int64, device=anchors.device)
    scores = torch.full(shape, -torch.inf, dtype=torch.float32, device=anchors.device)
    available = min(k, candidates.shape[0])
    if anchors.shape[0] == 0 or available == 0:
        return HardNegatives(indices, scores)

    fused = anchors.device.type == "cpu" and anchors.dtype != torch.float64
    top_k = _ops.mine_top_k if fused else plain.mine_top_k
    rows = _rows_per_call(candidates) if fused else _PLAIN_ROWS
    if fused:
        candidates = candidates.float().contiguous()
    for start in range(0, anchors.shape[0], rows):
        block = slice(start, start + rows)
        ids = None if anchor_ids is None else anchor_ids[block]
        found = top_k(anchors[block], candidates, available, ids, candidate_ids, candidate_norm)
        indices[block, :available], scores[block, :available] = found
    return HardNegatives(indices, scores)


def _rows_per_call(candidates: Tensor) -> int:
    """Anchors that one call of the operator takes through all candidates (M, D)."""
    affordable = _PRODUCTS_PER_THREAD // candidates.numel()
    return torch.get_num_threads() * min(max(affordable, _LEAST_ROWS_PER_THREAD), _MOST_ROWS_PER_THREAD)


def _check_scores_fit(anchor_norm: float, candidate_norm: float) -> None:
    if not anchor_norm * candidate_norm < torch.finfo(torch.float32).max / 2:
        raise ValueError(
            "anchors and candidates must have scores that fit float32, got rows with norms up to "
            f"{anchor_norm:.3g} and {candidate_norm:.3g}"
        )


def _check(
    anchors: Tensor, candidates: Tensor, k: int, anchor_ids: Tensor | None, candidate_ids: Tensor | None
) -> None:
    check_matrix("anchors", anchors)
    check_comparable("candidates", candidates, anchors, "anchors")
    if candidates.shape[0] > _MOST_CANDIDATES:
        raise ValueError(f"candidates must have at most {_MOST_CANDIDATES} rows, got {candidates.shape[0]}")
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if (anchor_ids is None) != (candidate_ids is None):
        missing, given = ("anchor_ids", "candidate_ids") if anchor_ids is None else ("candidate_ids", "anchor_ids")
        raise TypeError(f"{missing} must be given with {given}, got None")
    if anchor_ids is not None and candidate_ids is not None:
        check_ids("anchor_ids", anchor_ids, anchors, "anchors")
        check_ids("candidate_ids", candidate_ids, candidates, "candidates")
