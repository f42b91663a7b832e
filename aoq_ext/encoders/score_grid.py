"""The scores of every image and every text in blocks, and their gradient in bounded memory.

The backward pass computes what it needs again. A loss that looks at the hardest negatives leaves nearly all of the
score matrix without a gradient: then only the pairs that have one are computed again, and the backward pass costs
little. Otherwise it goes through the same blocks as the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aoq_ext import _ops
from aoq_ext.encoders.padding import mask_of
from aoq_ext.encoders.score_rule import ScoreRule, Side, has_cpu_kernel

_FEWEST_COLUMNS = 256  # words that a block should have, so that its matrix product runs at full speed
_SPARSE = 0.125  # of the pairs: from this on, blocks are cheaper than single pairs


@dataclass(frozen=True)
class GridPlan:
    """How to go through N images and M texts.

    Long texts come first: texts of a block are then of about one length, and little padding is computed.
    """

    rule: ScoreRule
    order: list[int]  # of the texts
    text_lengths: list[int]  # in this order
    chunk_elements: int  # products in a block
    kept_elements: int  # products that may be kept for the backward pass

    @classmethod
    def of(cls, rule: ScoreRule, text_lengths: list[int], chunk_elements: int, kept_elements: int) -> GridPlan:
        order = sorted(range(len(text_lengths)), key=lambda text: -text_lengths[text])
        return cls(rule, order, [text_lengths[text] for text in order], chunk_elements, kept_elements)

    def sides(self, images: Tensor, image_mask: Tensor | None, texts: Tensor, order: Tensor) -> tuple[Side, Side]:
        longest = self.text_lengths[0]
        text_mask = None
        if self.text_lengths[-1] < longest:
            text_mask = mask_of(torch.tensor(self.text_lengths, dtype=torch.int64, device=texts.device), longest)
        return (
            Side.of(images, image_mask, self.rule.attends_to_regions),
            Side.of(texts[:, :longest].index_select(0, order), text_mask, self.rule.attends_to_words),
        )

    def blocks(self, count: int, regions: int) -> Iterator[tuple[slice, slice]]:
        """Images and texts of each block of ``count`` images."""
        words = min(_FEWEST_COLUMNS, sum(self.text_lengths))
        pieces = min(max(1, math.ceil(count * regions * words / self.chunk_elements)), count)
        height = math.ceil(count / pieces)
        columns = self.chunk_elements // (height * regions)
        first = 0
        while first < len(self.text_lengths):
            width = max(1, columns // self.text_lengths[first])
            for top in range(0, count, height):
                yield slice(top, top + height), slice(first, first + width)
            first += width

    def keeps(self, count: int, regions: int) -> bool:
        return count * regions * sum(self.text_lengths) <= self.kept_elements

    def block(self, images: Side, texts: Side, rows: slice, columns: slice) -> tuple[Side, Side]:
        return images.rows(rows, images.norm.shape[1]), texts.rows(columns, self.text_lengths[columns.start])


def grid_scores(images: Tensor, image_mask: Tensor | None, texts: Tensor, plan: GridPlan) -> Tensor:
    """images: (N, R, D); image_mask: (N, R); texts: (M, L, D) -> (N, M)"""
    order = torch.tensor(plan.order, dtype=torch.int64, device=texts.device)
    scores: Tensor = _Grid.apply(plan, order, image_mask, images, texts)
    return scores


class _Grid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: GridPlan, order: Tensor, image_mask: Tensor | None, images: Tensor, texts: Tensor
    ) -> Tensor:
        image_side, text_side = plan.sides(images, image_mask, texts, order)
        keep = any(ctx.needs_input_grad) and plan.keeps(*images.shape[:2])
        scores = images.new_empty(len(images), len(texts))
        kept = []
        for rows, columns in plan.blocks(*images.shape[:2]):
            image, text = plan.block(image_side, text_side, rows, columns)
            products = _products(image, text)
            scores[rows, columns] = plan.rule.every_pair(products, image, text)
            if keep:
                kept.append(products)
        tensors = image_side.tensors(), text_side.tensors()
        ctx.plan, ctx.masks = plan, (image_mask, text_side.mask)
        ctx.words, ctx.sizes = texts.shape[1], [len(side) for side in tensors]
        ctx.save_for_backward(order, *tensors[0], *tensors[1], *kept)
        return scores.index_select(1, order.argsort())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        plan, (first, second) = ctx.plan, ctx.sizes
        order, *saved = ctx.saved_tensors
        images = Side.from_tensors(saved[:first], ctx.masks[0])
        texts = Side.from_tensors(saved[first : first + second], ctx.masks[1])
        by_images, by_texts = images.zeros(), texts.zeros()
        *_, wants_images, wants_texts = ctx.needs_input_grad
        gradient = gradient.index_select(1, order)
        with_gradient = gradient.mT.nonzero()  # (P, 2), text and image, longest texts first
        with torch.autocast(gradient.device.type, enabled=False):
            if len(with_gradient) <= _SPARSE * gradient.numel():
                _add_pairs(plan, images, texts, by_images, by_texts, gradient, with_gradient)
            else:
                kept = saved[first + second :]
                _add_blocks(plan, images, texts, by_images, by_texts, gradient, kept, wants_images, wants_texts)
        return (
            None, None, None,
            images.gather(by_images) if wants_images else None,
            _put_back(texts.gather(by_texts), order, ctx.words) if wants_texts else None,
        )  # fmt: skip


def _put_back(rows: Tensor, order: Tensor, size: int) -> Tensor:
    """rows: (M, l, D), in ``order`` -> (M, size, D), as they were, with zeros beyond l"""
    if rows.shape[1] == size:
        return rows.index_select(0, order.argsort())
    whole = rows.new_zeros(len(rows), size, rows.shape[2])
    whole[:, : rows.shape[1]].index_copy_(0, order, rows)
    return whole


def _add_blocks(
    plan: GridPlan, images: Side, texts: Side, image_totals: Side, text_totals: Side, gradient: Tensor,
    kept: list[Tensor], wants_images: bool, wants_texts: bool,
) -> None:  # fmt: skip
    """Add to the totals the gradient of every pair's score; to the features' where they are wanted."""
    for block, (rows, columns) in enumerate(plan.blocks(*images.norm.shape)):
        image, text = plan.block(images, texts, rows, columns)
        into_image, into_text = plan.block(image_totals, text_totals, rows, columns)
        products = kept[block] if kept else _products(image, text)
        by_product = plan.rule.add_gradients(gradient[rows, columns], products, image, text, into_image, into_text)
        by_product = by_product.flatten(2).flatten(0, 1)  # (m L, n R)
        flat_image, flat_text = image.features.flatten(0, 1), text.features.flatten(0, 1)
        if wants_images:
            _add_product(into_image.features.view(flat_image.shape), by_product.mT, flat_text)
        if wants_texts:
            into_text.features.add_(_product(by_product, flat_image).view(into_text.features.shape))


def _add_pairs(
    plan: GridPlan, images: Side, texts: Side, image_totals: Side, text_totals: Side, gradient: Tensor, pairs: Tensor,
) -> None:  # fmt: skip
    """Add to the totals the gradient of the scores of ``pairs``: (P, 2), text and image."""
    regions, width = images.features.shape[1:]
    step = max(1, plan.chunk_elements // ((regions + texts.norm.shape[1]) * width))
    longest_of_steps = [plan.text_lengths[text] for text in pairs[::step, 0].tolist()]
    for step_index, longest in enumerate(longest_of_steps):
        column, row = pairs[step_index * step :][:step].unbind(1)
        image, text = images.rows(row, regions).leaves(), texts.rows(column, longest).leaves()
        with torch.enable_grad():
            scores = plan.rule.each_pair(torch.bmm(text.features, image.features.mT), image, text)
        inputs = image.tensors() + text.tensors()
        wanted = list(torch.autograd.grad(scores, inputs, gradient[row, column], materialize_grads=True))
        for total in image_totals.tensors():
            _add_rows(total, row, wanted.pop(0))
        for total in text_totals.rows(slice(None), longest).tensors():
            _add_rows(total, column, wanted.pop(0))


def _add_rows(total: Tensor, index: Tensor, addend: Tensor) -> None:
    """total[index] += addend, in an order that does not depend on scheduling: each device has one way that is so."""
    if total.device.type == "cpu":
        total.index_add_(0, index, addend)
    else:
        total.index_put_((index,), addend, accumulate=True)


def _products(images: Side, texts: Side) -> Tensor:
    """-> (m, L, n, R): one matrix product of every word and every region"""
    (n, regions), (m, words) = images.norm.shape, texts.norm.shape
    return _product(texts.features.flatten(0, 1), images.features.flatten(0, 1).mT).view(m, words, n, regions)


def _product(left: Tensor, right: Tensor) -> Tensor:
    return _ops.matrix_product(left, right) if has_cpu_kernel(left) else left @ right


def _add_product(into: Tensor, left: Tensor, right: Tensor) -> None:
    """into += left @ right"""
    if has_cpu_kernel(into):
        _ops.add_matrix_product_(into, left, right)
    else:
        into.addmm_(left, right)
