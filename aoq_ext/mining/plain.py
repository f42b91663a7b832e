"""Exact mining in plain PyTorch: for any device, and for float64. What the fused operator does, easier to check.

Selection is by integer keys, (score, lower index first) in 64 bits, as in csrc/math/top_k_key.h. They are unique, so
torch.topk has no ties to break in its own way.
"""

from __future__ import annotations

import torch
from torch import Tensor

PANEL_COLUMNS = 4096

_LANES = 16  # partial sums of a score, each over every 16th dimension
_PAIRS_AT_A_TIME = 1 << 14
_NO_KEY = torch.iinfo(torch.int64).min
_INDEX_MASK = 0xFFFFFFFF
_MAGNITUDE = 0x7FFFFFFF


def mine_top_k(
    anchors: Tensor,  # (N, D)
    candidates: Tensor,  # (M, D)
    k: int,  # 1 ≤ k ≤ M
    anchor_ids: Tensor | None,  # (N,)
    candidate_ids: Tensor | None,  # (M,)
    candidate_norm: float,  # no candidate is longer
) -> tuple[Tensor, Tensor]:
    """Indices (N, k) int64 and scores (N, k) float32, hardest first, -1 and -inf where there are none."""
    anchors = anchors.double()
    slack = _sum_difference(anchors.shape[1]) * candidate_norm * anchors.norm(dim=1, keepdim=True)
    best = torch.full((anchors.shape[0], k), _NO_KEY, dtype=torch.int64, device=anchors.device)
    for start in range(0, candidates.shape[0], PANEL_COLUMNS):
        panel = slice(start, start + PANEL_COLUMNS)
        keys = _pack(_panel_scores(anchors, candidates[panel].double(), slack), start)
        if anchor_ids is not None and candidate_ids is not None:
            keys.masked_fill_(anchor_ids[:, None] == candidate_ids[None, panel], _NO_KEY)
        best = torch.cat([best, keys], dim=1).topk(k, dim=1).values
    return _unpack(best)


def ordered_dot(x: Tensor, y: Tensor) -> Tensor:
    """Dot products (n,) float64 of the rows of x and y, (n, D) float64, in the order that defines a score.

    Sixteen partial sums, the l-th over dimensions l, l + 16, l + 32, ..., then added in halves: l and l + 8, l and
    l + 4, l and l + 2, 0 and 1. Products of float32 values are exact in float64, so fused multiply-add is the same.
    """
    pad = -x.shape[1] % _LANES
    x_steps = torch.nn.functional.pad(x, (0, pad)).unflatten(1, (-1, _LANES))
    y_steps = torch.nn.functional.pad(y, (0, pad)).unflatten(1, (-1, _LANES))
    sums = torch.zeros_like(x_steps[:, 0])
    for step in range(x_steps.shape[1]):
        sums = sums + x_steps[:, step] * y_steps[:, step]
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def _panel_scores(anchors: Tensor, candidates: Tensor, slack: Tensor) -> Tensor:
    """Scores (b, p) float32 of anchors (b, D) and candidates (p, D), both float64, as `ordered_dot` defines them.

    The product sums in an order of its own and is off by at most slack (b, 1). Where both ends of that interval round
    to the same float32, so does the ordered sum; the few other pairs are summed again.
    """
    product = anchors @ candidates.T
    scores = (product + slack).float()
    unsure = torch.nonzero((product - slack).float() != scores)
    for pairs in unsure.split(_PAIRS_AT_A_TIME):
        rows, columns = pairs.unbind(1)
        scores[rows, columns] = ordered_dot(anchors[rows], candidates[columns]).float()
    return scores


def _sum_difference(terms: int) -> float:
    """A bound on the difference of two float64 sums of the same products in any order, relative to the norms' product.

    Each sum is within terms * u / (1 - terms * u) of the exact one (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1), u = eps / 2; the two extra terms cover the rounding of the norms and of the bound itself.
    """
    return (terms + 2) * torch.finfo(torch.float64).eps


def _pack(scores: Tensor, first_index: int) -> Tensor:
    """Keys (b, p) int64 whose integer order is: higher score first, then lower index; column 0 is ``first_index``."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: the two zeros are equal
    order = torch.where(bits < 0, bits ^ _MAGNITUDE, bits).long()
    index = torch.arange(first_index, first_index + scores.shape[1], device=scores.device)
    return (order << 32) | (_INDEX_MASK - index)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Indices int64 and scores float32 of keys, -1 and -inf for `_NO_KEY`."""
    order = (keys >> 32).int()
    scores = torch.where(order < 0, order ^ _MAGNITUDE, order).view(torch.float32)
    indices = _INDEX_MASK - (keys & _INDEX_MASK)
    missing = keys == _NO_KEY
    return indices.masked_fill(missing, -1), scores.masked_fill(missing, -torch.inf)
