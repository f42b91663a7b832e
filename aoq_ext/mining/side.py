"""One side of a tile of scores: rows of embeddings, and what decides which pairs may be negatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Any number of labels a row: those of row i are ``values[offsets[i]:offsets[i + 1]]``, ascending."""

    values: Tensor  # (L,) int64
    offsets: Tensor  # (n + 1,) int64, non-decreasing; need not begin at 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def part(self, start: int, stop: int) -> Ragged:
        return Ragged(self.values, self.offsets[start : stop + 1])

    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.values, self.offsets

    def entries(self) -> tuple[Tensor, Tensor]:
        """Row numbers, from 0, and labels, each (entries of these rows,)."""
        counts = self.offsets.diff()
        rows = torch.repeat_interleave(torch.arange(len(self), device=counts.device), counts)
        return rows, self.values[int(self.offsets[0]) : int(self.offsets[-1])]


@dataclass(frozen=True)
class Side:
    """Rows ``first``, ``first + 1``, ... of all anchors, or of all candidates."""

    rows: Tensor  # (n, D)
    first: int = 0
    ids: Tensor | None = None  # (n,) int64: pairs with equal ids belong together
    labels: Ragged | None = None  # of n rows: pairs with a common label belong together
    caps: Tensor | None = None  # (n,) float32: a negative of row i scores at most caps[i]

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, start: int, stop: int) -> Side:
        """Rows [start, stop) of these."""
        return Side(
            rows=self.rows[start:stop],
            first=self.first + start,
            ids=None if self.ids is None else self.ids[start:stop],
            labels=None if self.labels is None else self.labels.part(start, stop),
            caps=None if self.caps is None else self.caps[start:stop],
        )

    def index(self) -> Tensor:
        """(n,) int64: their numbers among all."""
        return torch.arange(self.first, self.first + len(self), device=self.rows.device)
