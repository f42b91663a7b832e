"""How many negatives are listed, and which candidates may be any beyond those that belong to the anchor.

Every rule is applied before the selection, so that k negatives are found wherever k exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .._scalars import as_float, as_int
from .embeddings import Embeddings
from .plain import ordered_dot

_ELEMENTS_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class MiningRules:
    """All that decides the lists beside the embeddings and what belongs together; it goes as one value to the manifest.

    With s the score of a negative of an anchor, and p the highest score of the candidates that have the anchor's id:

    Attributes:
        k: candidates listed for each anchor.
        k_reverse: anchors listed for each candidate; None: one direction alone.
        skip: the list begins at rank ``skip`` + 1, its k entries end at rank ``skip`` + k; ranks count what the other
            rules leave.
        margin: s ≤ p − margin. Negative margins allow negatives above the anchor's own.
        relative_margin: s ≤ p − relative_margin · |p|, which is below p for negative p too.
        max_score: s ≤ max_score.

    An anchor without candidates of its own has no p; the two margins do not bind it. Computed in float64.
    """

    k: int
    k_reverse: int | None = None
    skip: int = 0
    margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("k_reverse", 1), ("skip", 0)):
            if (given := getattr(self, name)) is None and name == "k_reverse":
                continue
            object.__setattr__(self, name, as_int(name, given))
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {given}")
        for name in ("margin", "relative_margin", "max_score"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_float(name, getattr(self, name)))
        if self.relative_margin is not None and self.relative_margin < 0:
            raise ValueError(f"relative_margin must be at least 0, got {self.relative_margin}")

    @classmethod
    def given(cls, direction: str, k: int, k_reverse: int | None, **others: Any) -> MiningRules:
        """Of arguments: ``k_reverse`` is ``k`` by default where both directions are mined."""
        if direction not in ("anchors", "both"):
            raise ValueError(f"direction must be 'anchors' or 'both', got {direction!r}")
        if k_reverse is not None and direction != "both":
            raise ValueError(f"k_reverse must come with direction='both', got {k_reverse} with {direction!r}")
        return cls(k, k if direction == "both" and k_reverse is None else k_reverse, **others)

    def values(self) -> dict[str, Any]:
        """The rules by name, without what a subclass adds."""
        return {field.name: getattr(self, field.name) for field in fields(MiningRules)}

    @property
    def needs_positives(self) -> bool:
        return self.margin is not None or self.relative_margin is not None

    @property
    def has_caps(self) -> bool:
        return self.needs_positives or self.max_score is not None

    def caps(self, positive: Tensor) -> Tensor:
        """(rows,) float32, the highest score a negative may have; positive: (rows,) p, −inf where there is none."""
        p = positive.double()
        cap = torch.full_like(p, math.inf if self.max_score is None else self.max_score)
        if self.margin is not None:
            cap = torch.where(positive == -math.inf, cap, cap.minimum(p - self.margin))
        if self.relative_margin is not None:
            cap = torch.where(positive == -math.inf, cap, cap.minimum(p - self.relative_margin * p.abs()))
        nearest = cap.float()
        return torch.where(
            nearest.double() > cap, torch.nextafter(nearest, torch.full_like(nearest, -math.inf)), nearest
        )


def no_positives(rows: int) -> Tensor:
    """(rows,) float32, the p of anchors that have no candidate of their own"""
    return torch.full((rows,), -torch.inf, dtype=torch.float32, device="cpu")


def positive_scores(anchors: Embeddings, candidates: Embeddings) -> tuple[Tensor, Tensor]:
    """The highest score of each anchor, (N,), and candidate, (M,), with those of its own id; −inf without any."""
    best = [no_positives(len(side)) for side in (anchors, candidates)]
    for rows, columns in _own_pairs(anchors, candidates):
        x, y = anchors.source.take(rows).double(), candidates.source.take(columns).double()
        scores = ordered_dot(x, y).float().cpu()
        best[0].scatter_reduce_(0, rows, scores, "amax")
        best[1].scatter_reduce_(0, columns, scores, "amax")
    return best[0], best[1]


def _own_pairs(anchors: Embeddings, candidates: Embeddings) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs with equal ids, some at a time: numbers of anchors and of candidates, each (pairs,)."""
    assert anchors.ids is not None and candidates.ids is not None
    some = max(1, _ELEMENTS_AT_A_TIME // anchors.width)
    ordered, order = candidates.ids.cpu().sort(stable=True)
    wanted = anchors.ids.cpu()
    first = torch.searchsorted(ordered, wanted)
    count = torch.searchsorted(ordered, wanted, right=True) - first
    end = count.cumsum(0)
    total = int(end[-1]) if len(end) else 0
    for start in range(0, total, some):
        number = torch.arange(start, min(start + some, total), device=end.device)
        row = torch.searchsorted(end, number, right=True)
        yield row, order[first[row] + number - (end[row] - count[row])]
