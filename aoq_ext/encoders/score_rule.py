"""A rule that makes scores of the products of regions and words, for every pair of a block or for single pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aoq_ext import _ops
from aoq_ext.encoders.attention import FEATURE_NORMS, FOCAL, POOLINGS, relevance

DIRECTIONS = ("t2i", "i2t", "both")


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
        features = features.contiguous()
        norm = torch.linalg.vector_norm(features, dim=-1)
        return cls(features, norm, torch.bmm(features, features.mT) if context else None, mask)

    def gather(self, gradient: Side) -> Tensor:
        """The gradient by the features that `of` was given, from that by each tensor; overwrites ``gradient``'s."""
        total = gradient.features
        if gradient.gram is not None:
            total.baddbmm_(gradient.gram + gradient.gram.mT, self.features)
        by_square = (gradient.norm / self.norm).masked_fill_(self.norm == 0, 0.0)
        total.addcmul_(self.features, by_square.unsqueeze(-1))
        return total if self.mask is None else total.masked_fill_(~self.mask.unsqueeze(-1), 0.0)

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor], mask: Tensor | None) -> Side:
        """`tensors`, put together again."""
        features, norm, *gram = tensors
        return cls(features, norm, gram[0] if gram else None, mask)

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

    def at(self, dim: int) -> Queries:
        """As queries of every context (``dim`` 0) or of the context in the same place (1)."""
        return Queries(self.norm.unsqueeze(dim), None if self.mask is None else self.mask.unsqueeze(dim))

    def leaves(self) -> Side:
        """The same numbers, at the root of a graph of their own."""
        return self.from_tensors([tensor.detach().requires_grad_() for tensor in self.tensors()], self.mask)

    def zeros(self) -> Side:
        """Of the same shapes, to add gradients to."""
        return self.from_tensors([torch.zeros_like(tensor) for tensor in self.tensors()], None)


@dataclass(frozen=True)
class Queries:
    """K sets of Q queries, of each of G contexts, or the same of all."""

    norm: Tensor  # (G or 1, K, Q), their lengths
    mask: Tensor | None  # (G or 1, K, Q), false where padded; None: no padding


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

    @property
    def attends_to_regions(self) -> bool:
        return self.direction != "i2t"

    @property
    def attends_to_words(self) -> bool:
        return self.direction != "t2i"

    def every_pair(self, products: Tensor, images: Side, texts: Side) -> Tensor:
        """products: (m, L, n, R) -> (n, m)"""
        scores = []
        if self.attends_to_regions:
            scores.append(self._score(products.permute(_BY_REGIONS), texts.at(0), images))
        if self.attends_to_words:
            scores.append(self._score(products.permute(_BY_WORDS), images.at(0), texts).mT)
        return _total(scores)

    def each_pair(self, products: Tensor, images: Side, texts: Side) -> Tensor:
        """products: (B, L, R) -> (B,)"""
        scores = []
        if self.attends_to_regions:
            scores.append(self._score(products[:, None], texts.at(1), images))
        if self.attends_to_words:
            scores.append(self._score(products.mT[:, None], images.at(1), texts))
        return _total(scores).squeeze(1)

    def add_gradients(
        self, by_score: Tensor, products: Tensor, images: Side, texts: Side, into_images: Side, into_texts: Side
    ) -> Tensor:
        """by_score: (n, m), of `every_pair` -> the gradient of ``products``, (m, L, n, R).

        That of the sides' norms and Gram matrices is added to those of ``into_images`` and ``into_texts``.
        """
        if not has_cpu_kernel(products):
            return self._add_autograd(by_score, products, images, texts, into_images, into_texts)
        by_products = []
        if self.attends_to_regions:
            grad = self._add_gradient(by_score, products.permute(_BY_REGIONS), texts, images, into_texts, into_images)
            by_products.append(grad.permute(_inverse(_BY_REGIONS)))
        if self.attends_to_words:
            grad = self._add_gradient(by_score.mT, products.permute(_BY_WORDS), images, texts, into_images, into_texts)
            by_products.append(grad.permute(_inverse(_BY_WORDS)))
        return _total(by_products)

    def _score(self, products: Tensor, queries: Queries, context: Side) -> Tensor:
        """products: (G, K, Q, C) -> (G, K)"""
        assert context.gram is not None
        if has_cpu_kernel(products):
            return _ops.cross_attention(products, *self._operands(queries, context))
        relevances = relevance(
            products.contiguous(), context.gram, queries.norm, queries.mask, context.mask,
            self.feature_norm, self.lambda_softmax, self.focal,
        )  # fmt: skip
        return POOLINGS[self.pooling](relevances, queries.mask, self.lambda_lse)

    def _operands(self, queries: Queries, context: Side) -> tuple[Any, ...]:
        """What an operator takes beside the products."""
        return (
            context.gram, queries.norm, _lengths(queries.mask), _lengths(context.mask),
            list(FEATURE_NORMS).index(self.feature_norm), self.lambda_softmax, [None, *FOCAL].index(self.focal),
            list(POOLINGS).index(self.pooling), self.lambda_lse,
        )  # fmt: skip

    def _add_gradient(
        self, by_score: Tensor, products: Tensor, queries: Side, context: Side, into_queries: Side, into_context: Side
    ) -> Tensor:
        """by_score: (G, K) -> the gradient of ``products``, (G, K, Q, C)"""
        by_products, by_gram, by_norm = _ops.cross_attention_backward(
            by_score, products, *self._operands(queries.at(0), context)
        )
        assert into_context.gram is not None
        into_context.gram.add_(by_gram)
        into_queries.norm.add_(by_norm[0])
        return by_products

    def _add_autograd(
        self, by_score: Tensor, products: Tensor, images: Side, texts: Side, into_images: Side, into_texts: Side
    ) -> Tensor:
        """`add_gradients` where there is no kernel."""
        products, images, texts = products.detach().requires_grad_(), images.leaves(), texts.leaves()
        with torch.enable_grad():
            scores = self.every_pair(products, images, texts)
        inputs = [products, *images.tensors()[1:], *texts.tensors()[1:]]
        wanted = torch.autograd.grad(scores, inputs, by_score, materialize_grads=True)
        for total, addend in zip(into_images.tensors()[1:] + into_texts.tensors()[1:], wanted[1:], strict=True):
            total += addend
        return wanted[0]


# (m, L, n, R) as contexts, sets of queries, queries and fragments.
_BY_REGIONS = (2, 0, 1, 3)
_BY_WORDS = (0, 2, 3, 1)


def _inverse(permutation: tuple[int, ...]) -> list[int]:
    return [permutation.index(dim) for dim in range(len(permutation))]


def has_cpu_kernel(products: Tensor) -> bool:
    """Whether the package's operators take tensors like these; PyTorch's operations serve the others."""
    return products.device.type == "cpu" and products.dtype == torch.float32


def _lengths(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.sum(dim=-1)


def _total(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]
