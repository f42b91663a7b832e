"""Mining a tile in plain PyTorch: for any device, and for float64. What the fused operator does, easier to check."""

from __future__ import annotations

import torch
from torch import Tensor

from .._embeddings import sum_difference
from . import keys
from .side import Side

PANEL_ROWS, PANEL_COLUMNS = 1024, 4096

_LANES = 16  # partial sums of a score, each over every 16th dimension
_PAIRS_AT_A_TIME = 1 << 14
_MANY_UNSURE = 1e-3  # of the pairs of a panel


def mine_tile(
    anchors: Side, candidates: Side, anchor_keys: Tensor, candidate_keys: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """See `aoq_ext.mining.tile.mine_tile`."""
    k_candidates = 0 if candidate_keys is None else candidate_keys.shape[1]
    rows_done = []
    columns = None if candidate_keys is None else candidate_keys.clone()
    norm = float(candidates.rows.double().norm(dim=1).amax()) if len(candidates) else 0.0
    for top in range(0, len(anchors), PANEL_ROWS):
        some = anchors.part(top, min(top + PANEL_ROWS, len(anchors)))
        found = anchor_keys[top : top + PANEL_ROWS]
        wide = some.rows.double()
        slack = sum_difference(wide.shape[1]) * norm * wide.norm(dim=1, keepdim=True)
        for left in range(0, len(candidates), PANEL_COLUMNS):
            others = candidates.part(left, min(left + PANEL_COLUMNS, len(candidates)))
            scores = exact_scores(wide, others.rows.double(), slack)
            together = _belong_together(some, others)
            row_keys = keys.pack(scores, others.index()[None, :]).masked_fill_(
                _excluded(together, scores, some.caps, 1), keys.NO_KEY
            )
            found = keys.merge(anchor_keys.shape[1], found, row_keys)
            if columns is not None:
                column_keys = keys.pack(scores, some.index()[:, None]).masked_fill_(
                    _excluded(together, scores, others.caps, 0), keys.NO_KEY
                )
                part = slice(left, left + PANEL_COLUMNS)
                columns[part] = keys.merge(k_candidates, columns[part], column_keys.T)
        rows_done.append(found)
    return torch.cat(rows_done) if rows_done else anchor_keys.clone(), columns


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


def exact_scores(anchors: Tensor, candidates: Tensor, slack: Tensor) -> Tensor:
    """Scores (b, p) float32 of anchors (b, D) and candidates (p, D), both float64, as `ordered_dot` defines them.

    The product sums in an order of its own and is off by at most slack (b, 1). Where both ends of that interval round
    to the same float32, so does the ordered sum; the few other pairs are summed again.
    """
    product = anchors @ candidates.T
    scores = (product + slack).float()
    unsure = torch.nonzero((product - slack).float() != scores)
    if len(unsure) > _MANY_UNSURE * scores.numel():  # zeros, say, of rows that share no dimension: bound each pair
        relative = sum_difference(anchors.shape[1])
        slack = relative * (1 + relative) * (anchors.abs() @ candidates.abs().T)
        scores = (product + slack).float()
        unsure = torch.nonzero((product - slack).float() != scores)
    for pairs in unsure.split(_PAIRS_AT_A_TIME):
        rows, columns = pairs.unbind(1)
        scores[rows, columns] = ordered_dot(anchors[rows], candidates[columns]).float()
    return scores


def _belong_together(anchors: Side, candidates: Side) -> Tensor | None:
    """(n, m) bool: pairs with equal ids or a common label; None where nothing is known of either side."""
    together = None
    if anchors.ids is not None and candidates.ids is not None:
        together = anchors.ids[:, None] == candidates.ids[None, :]
    if anchors.labels is not None and candidates.labels is not None:
        shared = _share_label(anchors, candidates)
        together = shared if together is None else together | shared
    return together


def _share_label(anchors: Side, candidates: Side) -> Tensor:
    """(n, m) bool, by a product of incidence matrices."""
    assert anchors.labels is not None and candidates.labels is not None
    row, row_label = anchors.labels.entries()
    column, column_label = candidates.labels.entries()
    _, code = torch.unique(torch.cat([row_label, column_label]), return_inverse=True)
    names = int(code.max()) + 1 if code.numel() else 1
    left, right = code.split([len(row), len(column)])
    # Only labels that occur on both sides matter; the incidence matrices stay small.
    both = torch.zeros(2, names, dtype=torch.bool, device=code.device)
    both[0, left] = True
    both[1, right] = True
    number = (both.all(dim=0).long().cumsum(0) - 1).masked_fill_(~both.all(dim=0), -1)
    count = int(both.all(dim=0).sum())
    incidence = []
    for where, labels, side in ((row, left, anchors), (column, right, candidates)):
        matrix = torch.zeros(len(side), max(count, 1), dtype=torch.float32, device=code.device)
        kept = number[labels] >= 0
        matrix[where[kept], number[labels[kept]]] = 1.0
        incidence.append(matrix)
    return incidence[0] @ incidence[1].T > 0


def _excluded(together: Tensor | None, scores: Tensor, caps: Tensor | None, dim: int) -> Tensor:
    """(n, m) bool: pairs that are no negatives in the direction whose caps these are, along dimension ``dim``."""
    above = scores > caps.unsqueeze(dim) if caps is not None else torch.zeros_like(scores, dtype=torch.bool)
    return above if together is None else above | together
