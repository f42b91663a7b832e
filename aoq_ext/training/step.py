"""Which rows one training step looks at, what is in them, and what the encoders made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aoq_ext.encoders.model import Features
from aoq_ext.lists.sampler import OfflineNegativeSampler
from aoq_ext.training.batches import Batch, Indices


@dataclass(frozen=True)
class RowNumbers:
    """The pairs of a batch, then the offline negatives that its objective needs.

    Images, in blocks of B: x, x̃ and x̂, as many of them as needed. Texts: y, ỹ and ŷ.
    """

    image: Indices  # (P,) P = B, 2B or 3B
    text: Indices  # (P,)
    pairs: int  # B


@dataclass(frozen=True)
class StepRows:
    """What is in the rows with these numbers, in the memory of the host."""

    images: Tensor  # (P, ...)
    tokens: Tensor  # (P, L)
    lengths: Tensor  # (P,)
    group_ids: Tensor  # (B,)

    @property
    def pairs(self) -> int:
        return len(self.group_ids)

    def images_at(self, chunk: slice, device: torch.device) -> Tensor:
        """(p, ...)"""
        return self.images[chunk].to(device, non_blocking=True)

    def texts_at(self, chunk: slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens (p, l) no longer than the longest of these captions, and lengths (p,)."""
        lengths = self.lengths[chunk]
        tokens = self.tokens[chunk, : int(lengths.max())]
        return tokens.to(device, non_blocking=True), lengths.to(device, non_blocking=True)

    def chunks(self, size: int | None) -> list[slice]:
        """The rows, ``size`` at a time, so that a chunk never holds pairs and negatives; None: all together."""
        if size is None or size >= len(self.lengths):
            return [slice(0, len(self.lengths))]
        blocks = range(0, len(self.lengths), self.pairs)
        return [
            slice(first, min(first + size, block + self.pairs))
            for block in blocks
            for first in range(block, block + self.pairs, size)
        ]


def rows_of(batch: Batch, sampler: OfflineNegativeSampler | None, objective: str) -> RowNumbers:
    images, texts = [batch.image], [batch.caption]
    if objective != "online_triplet":
        assert sampler is not None  # the configuration was checked
        draw = sampler.draw(torch.from_numpy(batch.image), torch.from_numpy(batch.caption), batch.step)
        images.append(draw.hard_image.numpy())
        texts.append(draw.hard_text.numpy())
        if objective != "offline_triplet":
            images.append(draw.hard_text_image.numpy())
            texts.append(draw.hard_image_text.numpy())
    return RowNumbers(np.concatenate(images), np.concatenate(texts), len(batch))


@dataclass(frozen=True)
class Step:
    """What one process looks at in one step of the optimizer."""

    number: int  # from 0, over the whole run
    pairs: int  # of all its batches, in all processes
    batches: list[StepRows]  # this process's share of each


@dataclass(frozen=True)
class StepFeatures:
    """What the loss of one step sees."""

    image: Features  # x (B)
    text: Features  # y (B)
    group_ids: Tensor  # (B,)
    hard_image: Features | None = None  # x̃ (B), where the objective needs it; likewise
    hard_text: Features | None = None  # ỹ
    hard_text_image: Features | None = None  # x̂, the image of ỹ
    hard_image_text: Features | None = None  # ŷ, a text of x̃

    @classmethod
    def of(cls, image: Features, text: Features, rows: StepRows, group_ids: Tensor) -> StepFeatures:
        """image, text: features of all P rows"""
        sizes = [rows.pairs] * (len(rows.lengths) // rows.pairs)
        images, texts = image.split(sizes), text.split(sizes)
        return cls(images[0], texts[0], group_ids, *images[1:2], *texts[1:2], *images[2:], *texts[2:])

    @property
    def sides(self) -> dict[str, Features]:
        """Those that there are, by name."""
        return {name: part for name, part in vars(self).items() if isinstance(part, Features)}

    def detached(self) -> StepFeatures:
        """Without the graph."""
        sides: dict[str, Any] = {name: Features(of.values.detach(), of.lengths) for name, of in self.sides.items()}
        return replace(self, **sides)
