"""One side of a mining problem: where its embeddings are, and what decides which pairs may be negatives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._sources import Source, TensorSource
from .side import Ragged, Side


@dataclass(frozen=True)
class Embeddings:
    """All anchors, or all candidates. What is optional here is there for both or for neither."""

    source: Source  # (rows, D)
    ids: Tensor | None = None  # (rows,) int64
    labels: Ragged | None = None  # of all rows
    caps: Tensor | None = None  # (rows,) float32
    first: int = 0  # number of row 0, where other processes hold the rows before

    def __len__(self) -> int:
        return self.source.shape[0]

    @property
    def in_memory(self) -> bool:
        """Whether reading rows costs no memory."""
        return isinstance(self.source, TensorSource)

    @property
    def width(self) -> int:
        return self.source.shape[1]

    def side(self, start: int, stop: int, device: torch.device, rows: Tensor | None = None) -> Side:
        """Rows [start, stop) on ``device``; ``rows``: where they are there already."""
        labels = None if self.labels is None else self.labels.part(start, stop)
        if labels is not None:  # of these rows alone
            low, high = int(labels.offsets[0]), int(labels.offsets[-1])
            labels = Ragged(labels.values[low:high].to(device), (labels.offsets - low).to(device))
        return Side(
            rows=self.source.rows(start, stop).to(device) if rows is None else rows,
            first=self.first + start,
            ids=None if self.ids is None else self.ids[start:stop].to(device),
            labels=labels,
            caps=None if self.caps is None else self.caps[start:stop].to(device),
        )

    def with_caps(self, caps: Tensor) -> Embeddings:
        return replace(self, caps=caps)
