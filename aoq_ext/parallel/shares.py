"""Who holds which rows of what is spread over processes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Shares:
    """Rows in rank order: this process holds ``first``, …, ``first + rows − 1`` of ``total``."""

    sizes: tuple[int, ...]
    rank: int

    @property
    def rows(self) -> int:
        return self.sizes[self.rank]

    @property
    def first(self) -> int:
        return sum(self.sizes[: self.rank])

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def own(self, rows: Tensor) -> Tensor:  # (C, ...) -> (B, ...)
        return rows[self.first : self.first + self.rows]
