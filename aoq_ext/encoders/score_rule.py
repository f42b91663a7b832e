"""A rule that makes scores of the products of regions and words, for every pair of a block or for single pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from aoq_ext.encoders.attention import EPSILON, FEATURE_NORMS, FOCAL, POOLINGS, fill, refocus

DIRECTIONS = ("t2i", "i2t", "both")


@dataclass(frozen=True)
class Fragments:
    """The regions of N images, or the words of N texts, F each."""

    features: Tensor  # (N, F, D), zeros where padded
    gram: Tensor  # (N, F, F), their products with each other
    mask: Tensor | None  # (N, F), false where padded; None: no padding

    @classmethod
    def of(cls, features: Tensor, mask: Tensor | None) -> Fragments:
        return cls(features, torch.bmm(features, features.mT), mask)

    def at(self, index: Tensor | slice, count: int) -> Fragments:
        """Those of the items at ``index``, without the padding beyond ``count``."""
        mask = None if self.mask is None else self.mask[index, :count]
        return Fragments(self.features[index, :count], self.gram[index, :count, :count], mask)

    def squares(self) -> Tensor:
        """-> (N, F), the squared lengths"""
        return self.gram.diagonal(dim1=1, dim2=2)


@dataclass(frozen=True)
class ScoreRule:
    """The options of `CrossAttention` that say what a score is."""

    direction: str
    feature_norm: str
    lambda_softmax: float
    pooling: str
    lambda_lse: float
    focal: str | None

    def __post_init__(self) -> None:
        choices = {"direction": DIRECTIONS, "feature_norm": FEATURE_NORMS, "pooling": POOLINGS, "focal": [None, *FOCAL]}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                known = [choice for choice in known if choice is not None]
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        for name in ("lambda_softmax", "lambda_lse"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value}")

    def every_pair(self, products: Tensor, images: Fragments, texts: Fragments) -> Tensor:
        """products: (n, R, m, L) -> (n, m)"""
        scores = []
        if self.direction != "i2t":
            scores.append(self._score(products, images, texts, 0))
        if self.direction != "t2i":
            scores.append(self._score(products.permute(2, 3, 0, 1).contiguous(), texts, images, 0).mT)
        return torch.stack(scores).sum(dim=0)

    def each_pair(self, images: Fragments, texts: Fragments) -> Tensor:
        """B images and as many texts -> (B,)"""
        products = torch.bmm(images.features, texts.features.mT).unsqueeze(2)  # (B, R, 1, L)
        scores = []
        if self.direction != "i2t":
            scores.append(self._score(products, images, texts, 1))
        if self.direction != "t2i":
            scores.append(self._score(products.transpose(1, 3), texts, images, 1))
        return torch.stack(scores).sum(dim=0).squeeze(1)

    def _score(self, products: Tensor, context: Fragments, queries: Fragments, dim: int) -> Tensor:
        """products: (G, C, K, Q) -> (G, K)

        The queries are those of every context (``dim`` 0), or of the context in the same place (1).

        |v|² is a sum that may cancel: its rounding error is about ε times the context's largest squared length. A
        context that cancels below that counts as vanished. Short of it, a cosine's error grows as ε / |v|².
        """
        query_mask = None if queries.mask is None else queries.mask.unsqueeze(dim)  # (G or 1, K, Q)
        norm_mask = None if query_mask is None else query_mask.unsqueeze(1)
        context_mask = None if context.mask is None else context.mask[:, :, None, None]
        logits = FEATURE_NORMS[self.feature_norm](products, norm_mask) * self.lambda_softmax
        attention = fill(logits, context_mask, float("-inf")).softmax(dim=1)
        if self.focal is not None:
            count = products.shape[1] if context_mask is None else context_mask.sum(dim=1, keepdim=True)
            attention = refocus(attention, self.focal, count)
        agreement = (attention * products).sum(dim=1)  # (G, K, Q), q·v
        spread = torch.bmm(context.gram, attention.flatten(2)).view_as(attention)
        squared = (attention * spread).sum(dim=1)  # (G, K, Q), |v|²
        smallest = context.squares().detach().amax(dim=1) * torch.finfo(squared.dtype).eps
        lengths = (squared * queries.squares().unsqueeze(dim)).clamp(min=EPSILON**2).sqrt()
        relevances = (agreement / lengths).masked_fill(squared <= smallest[:, None, None], 0.0)
        return POOLINGS[self.pooling](relevances, query_mask, self.lambda_lse)
