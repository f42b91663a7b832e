"""The scores of every image and every text in blocks, and their gradient in bounded memory.

The backward pass computes what it needs again. A loss that looks at the hardest negatives leaves nearly all of the
score matrix without a gradient: then only the pairs that have one are computed again, and the backward pass costs
little. Otherwise it goes through the same blocks as the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aoq_ext.encoders.padding import clear, mask_of
from aoq_ext.encoders.score_rule import Fragments, ScoreRule

_FEWEST_COLUMNS = 256  # words that a block should have, so that its matrix product runs at full speed
_SPARSE = 0.125  # of the pairs: from this on, blocks are cheaper than single pairs


@dataclass(frozen=True)
class GridPlan:
    """How to go through N images of R regions and M texts, the longest first.

    Texts of a block are then of about one length, and little padding is computed.
    """

    rule: ScoreRule
    image_mask: Tensor | None  # (N, R)
    text_mask: Tensor | None  # (M, L)
    lengths: list[int]  # of the texts
    chunk_elements: int  # products in a block
    kept_elements: int  # products that may be kept for the backward pass

    def fragments(self, images: Tensor, texts: Tensor) -> tuple[Fragments, Fragments]:
        return Fragments.of(images, self.image_mask), Fragments.of(texts, self.text_mask)

    def blocks(self, count: int, regions: int) -> Iterator[tuple[slice, slice, int]]:
        """Images and texts of each block of N = ``count`` images, and the length of its longest text."""
        words = min(_FEWEST_COLUMNS, sum(self.lengths))
        pieces = min(math.ceil(count * regions * words / self.chunk_elements), count)
        height = math.ceil(count / pieces)
        first = 0
        while first < len(self.lengths):
            longest = self.lengths[first]
            last = first + max(1, self.chunk_elements // (height * regions * longest))
            for top in range(0, count, height):
                yield slice(top, top + height), slice(first, last), longest
            first = last


def grid_scores(
    rule: ScoreRule,
    images: Tensor,  # (N, R, D)
    image_mask: Tensor | None,  # (N, R)
    texts: Tensor,  # (M, L, D)
    lengths: list[int],
    chunk_elements: int,
    kept_elements: int,
) -> Tensor:  # (N, M)
    order = sorted(range(len(lengths)), key=lambda text: -lengths[text])
    lengths = [lengths[text] for text in order]
    text_mask = None
    if lengths[-1] < lengths[0]:
        text_mask = mask_of(torch.tensor(lengths, dtype=torch.int64, device=texts.device), lengths[0])
    plan = GridPlan(rule, image_mask, text_mask, lengths, chunk_elements, kept_elements)
    places = torch.tensor(order, dtype=torch.int64, device=texts.device)
    ordered = texts[:, : lengths[0]].index_select(0, places)
    scores: Tensor = _Grid.apply(plan, clear(images, image_mask), clear(ordered, text_mask))
    return scores.index_select(1, places.argsort())


class _Grid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: GridPlan, images: Tensor, texts: Tensor) -> Tensor:
        count, regions = images.shape[:2]
        keeps = any(ctx.needs_input_grad) and count * regions * sum(plan.lengths) <= plan.kept_elements
        every_image, every_text = plan.fragments(images, texts)
        scores = images.new_empty(count, len(texts))
        kept = []
        for rows, columns, longest in plan.blocks(count, regions):
            image, text = every_image.at(rows, regions), every_text.at(columns, longest)
            products = _products(image, text)
            scores[rows, columns] = plan.rule.every_pair(products, image, text)
            if keeps:
                kept.append(products)
        ctx.plan = plan
        ctx.save_for_backward(images, texts, *kept)
        return scores

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, gradient, *ctx.saved_tensors)


@once_differentiable  # and features are among what it is given: whoever derives it by them is told so
def _gradients(ctx: Any, gradient: Tensor, images: Tensor, texts: Tensor, *kept: Tensor) -> tuple[Tensor | None, ...]:
    """By images and texts, from that by their scores."""
    with torch.autocast(gradient.device.type, enabled=False):
        first, second = map(_Side, ctx.plan.fragments(images, texts), ctx.needs_input_grad[1:])
        pairs = gradient.mT.nonzero()  # (P, 2), text and image, longest texts first
        if len(pairs) <= _SPARSE * gradient.numel():
            _add_pairs(ctx.plan, first, second, gradient, pairs)
        else:
            _add_blocks(ctx.plan, first, second, gradient, kept)
        return tuple(side.gradient() if side.wanted else None for side in (first, second))


class _Side:
    """The images or the texts, and their gradient as it is summed up, where it is wanted."""

    def __init__(self, fragments: Fragments, wanted: bool) -> None:
        self.fragments, self.wanted = fragments, wanted
        self.size = fragments.features.shape[1]
        self.by_features, self.by_gram = (
            torch.zeros_like(tensor) if wanted else tensor.new_empty(0)
            for tensor in (fragments.features, fragments.gram)
        )

    def leaves(self, index: Tensor | slice, count: int) -> Fragments:
        """Fragments at the root of a graph of their own."""
        part = self.fragments.at(index, count)
        features, gram = (tensor.detach().requires_grad_(self.wanted) for tensor in (part.features, part.gram))
        return Fragments(features, gram, part.mask)

    def gradient(self) -> Tensor:
        """By the features, once everything is summed up."""
        return self.by_features.baddbmm_(self.by_gram + self.by_gram.mT, self.fragments.features)


def _add_blocks(plan: GridPlan, images: _Side, texts: _Side, gradient: Tensor, kept: Sequence[Tensor]) -> None:
    """The gradient of every pair's score."""
    for block, (rows, columns, longest) in enumerate(plan.blocks(len(gradient), images.size)):
        image, text = images.leaves(rows, images.size), texts.leaves(columns, longest)
        flat_image, flat_text = (part.features.detach().flatten(0, 1) for part in (image, text))
        products = (kept[block] if kept else _products(image, text)).detach().requires_grad_()
        with torch.enable_grad():
            plan.rule.every_pair(products, image, text).backward(gradient[rows, columns])
        by_products = _grad(products).flatten(2).flatten(0, 1)  # (n R, m L)
        if images.wanted:
            images.by_gram[rows] += _grad(image.gram)
            images.by_features[rows].view(flat_image.shape).addmm_(by_products, flat_text)
        if texts.wanted:
            texts.by_gram[columns, :longest, :longest] += _grad(text.gram)
            texts.by_features[columns, :longest] += (by_products.mT @ flat_image).view(text.features.shape)


def _add_pairs(plan: GridPlan, images: _Side, texts: _Side, gradient: Tensor, pairs: Tensor) -> None:
    """The gradient of the scores of ``pairs``: (P, 2), text and image."""
    step = max(1, plan.chunk_elements // ((images.size + texts.size) * images.fragments.features.shape[2]))
    longest_of_steps = [plan.lengths[text] for text in pairs[::step, 0].tolist()]
    for some, longest in zip(pairs.split(step), longest_of_steps):
        column, row = some.unbind(1)
        image, text = images.leaves(row, images.size), texts.leaves(column, longest)
        with torch.enable_grad():
            plan.rule.each_pair(image, text).backward(gradient[row, column])
        for side, index, count, part in ((images, row, images.size, image), (texts, column, longest, text)):
            if side.wanted:
                _add_rows(side.by_features[:, :count], index, _grad(part.features))
                _add_rows(side.by_gram[:, :count, :count], index, _grad(part.gram))


def _add_rows(total: Tensor, index: Tensor, addend: Tensor) -> None:
    """total[index] += addend, in an order that does not depend on scheduling: each device has one way that is so."""
    if total.device.type == "cpu":
        total.index_add_(0, index, addend)
    else:
        total.index_put_((index,), addend, accumulate=True)


def _grad(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _products(images: Fragments, texts: Fragments) -> Tensor:
    """-> (n, R, m, L): one matrix product of every region and every word"""
    (n, regions), (m, words) = images.features.shape[:2], texts.features.shape[:2]
    return (images.features.flatten(0, 1) @ texts.features.flatten(0, 1).mT).view(n, regions, m, words)
