"""A rule that makes scores of the products of regions and words, for every pair of a block or for single pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aoq_ext.encoders.attention import POOLINGS, relevance


@dataclass(frozen=True)
class Side:
    """The images, or the texts, of a batch or of a part of it: N items of F fragments (regions or words)."""

    features: Tensor  # (N, F, D), zeros where padded
    norm: Tensor  # (N, F), lengths of the features
    gram: Tensor | None  # (N, F, F), where this side is a context
    mask: Tensor | None  # (N, F), false where padded; None: no padding

    @classmethod
    def of(cls, features: Tensor, mask: Tensor | None, context: bool) -> Side:
        if mask is not None:
            features = features.masked_fill(~mask.unsqueeze(-1), 0.0)
        norm = torch.linalg.vector_norm(features, dim=-1)
        return cls(features, norm, torch.bmm(features, features.mT) if context else None, mask)

    def rows(self, index: Tensor | slice, fragments: int) -> Side:
        """The items at ``index``, without the padding beyond ``fragments``."""
        return Side(
            self.features[index, :fragments],
            self.norm[index, :fragments],
            None if self.gram is None else self.gram[index, :fragments, :fragments],
            None if self.mask is None else self.mask[index, :fragments],
        )

    def tensors(self) -> list[Tensor]:
        """What a gradient is taken of."""
        return [self.features, self.norm] if self.gram is None else [self.features, self.norm, self.gram]

    def leaves(self) -> Side:
        """The same numbers, at the root of a graph of their own."""
        features, norm, *gram = (tensor.detach().requires_grad_() for tensor in self.tensors())
        return Side(features, norm, gram[0] if gram else None, self.mask)


@dataclass(frozen=True)
class ScoreRule:
    """The options of `CrossAttention` that say what a score is."""

    direction: str
    feature_norm: str
    lambda_softmax: float
    pooling: str
    lambda_lse: float
    focal: str | None

    @property
    def attends_to_regions(self) -> bool:
        return self.direction != "i2t"

    @property
    def attends_to_words(self) -> bool:
        return self.direction != "t2i"

    def every_pair(self, products: Tensor, images: Side, texts: Side) -> Tensor:
        """products: (m, L, n, R) -> (n, m)"""
        scores = None
        if self.attends_to_regions:
            scores = self._score(products.permute(2, 0, 1, 3), texts.norm[None], _at(texts.mask, 0), images)
        if self.attends_to_words:
            other = self._score(products.permute(0, 2, 3, 1), images.norm[None], _at(images.mask, 0), texts).mT
            scores = other if scores is None else scores + other
        assert scores is not None
        return scores

    def each_pair(self, products: Tensor, images: Side, texts: Side) -> Tensor:
        """products: (B, L, R) -> (B,)"""
        scores = None
        if self.attends_to_regions:
            scores = self._score(products[:, None], texts.norm[:, None], _at(texts.mask, 1), images)
        if self.attends_to_words:
            other = self._score(products.mT[:, None], images.norm[:, None], _at(images.mask, 1), texts)
            scores = other if scores is None else scores + other
        assert scores is not None
        return scores.squeeze(1)

    def _score(self, products: Tensor, norm: Tensor, mask: Tensor | None, context: Side) -> Tensor:
        """products: (G, K, Q, C); norm, mask: of the queries, (G or 1, K or 1, Q) -> (G, K)"""
        assert context.gram is not None
        relevances = relevance(
            products.contiguous(), context.gram, norm, mask, context.mask,
            self.feature_norm, self.lambda_softmax, self.focal,
        )  # fmt: skip
        return POOLINGS[self.pooling](relevances, mask, self.lambda_lse)


def _at(mask: Tensor | None, dim: int) -> Tensor | None:
    return None if mask is None else mask.unsqueeze(dim)
