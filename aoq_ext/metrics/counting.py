"""Ranks of both directions from one walk over the scores.

The rank of a query is one more than the wrong candidates that score no less than its best right one. The right pairs
are few, so their scores come first, each computed alone; then every panel of scores is counted in both directions and
forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .scorers import Panel, Scorer


@dataclass(frozen=True, eq=False)
class Labels:
    """What makes a candidate right for a query."""

    images: Tensor  # (N,) int64
    texts: Tensor  # (T,) int64: a text is right for an image, and the image for it, when their labels are equal
    text_folds: Tensor  # (T,) int64 in [0, folds): with which block of images a text is compared
    folds: int  # the images are split into so many contiguous blocks of equal size


def count_ranks(scorer: Scorer, labels: Labels) -> tuple[Tensor, Tensor]:
    """Ranks of the images among the texts of their fold (N,), of the texts among the images of theirs (T,), int64.

    A query without a right candidate ranks behind all.
    """
    count, texts = scorer.shape
    image_best = torch.full((count,), -torch.inf, dtype=scorer.dtype, device=scorer.device)
    text_best = torch.full((texts,), -torch.inf, dtype=scorer.dtype, device=scorer.device)
    for block in _walk(scorer, labels):
        if block.right.any():
            pairs = torch.nonzero(block.right).unbind(1)
            scores = block.panel().exact(*pairs)
            image_best[block.images].scatter_reduce_(0, pairs[0], scores, "amax")
            text_best.scatter_reduce_(0, block.texts[pairs[1]], scores, "amax")

    image_low, image_high = scorer.bounds(image_best, scorer.image_slack)
    text_low, text_high = scorer.bounds(text_best, scorer.text_slack)
    image_ranks = torch.ones(count, dtype=torch.int64, device=scorer.device)
    text_ranks = torch.ones(texts, dtype=torch.int64, device=scorer.device)
    for block in _walk(scorer, labels):
        panel = block.panel()
        values = panel.values()
        values.masked_fill_(block.right, -torch.inf)
        best, low, high = (tensor[block.images, None] for tensor in (image_best, image_low, image_high))
        image_ranks[block.images] += _no_less(values, panel.exact, best, low, high, 1)
        best, low, high = (tensor[None, block.texts] for tensor in (text_best, text_low, text_high))
        text_ranks[block.texts] += _no_less(values, panel.exact, best, low, high, 0)
    return image_ranks, text_ranks


@dataclass(frozen=True, eq=False)
class _Block:
    """A range of n images with t texts of the same fold."""

    images: slice
    texts: Tensor  # (t,) int64, ascending
    right: Tensor  # (n, t) bool
    panel: Callable[[], Panel]  # reads the rows, so only where the scores are needed


def _walk(scorer: Scorer, labels: Labels) -> Iterator[_Block]:
    """Every image with every text of its fold, once; a range of texts without any of the fold is not read."""
    size = scorer.shape[0] // labels.folds
    for fold in range(labels.folds):
        for images in _ranges(fold * size, (fold + 1) * size, scorer.image_rows):
            for texts in _ranges(0, scorer.shape[1], scorer.text_rows):
                columns = torch.nonzero(labels.text_folds[texts] == fold).flatten()
                if columns.numel() > 0:
                    numbers = texts.start + columns
                    right = labels.images[images, None] == labels.texts[None, numbers]
                    yield _Block(images, numbers, right, _opener(scorer, images, texts, columns))


def _opener(scorer: Scorer, images: slice, texts: slice, columns: Tensor) -> Callable[[], Panel]:
    return lambda: scorer.panel(images, texts, columns)


def _ranges(start: int, stop: int, step: int) -> Iterator[slice]:
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def _no_less(
    values: Tensor,  # (n, t)
    exact: Callable[[Tensor, Tensor], Tensor],
    best: Tensor,  # (n, 1) or (1, t), as the next two
    low: Tensor,
    high: Tensor,
    dim: int,  # along which candidates stand
) -> Tensor:
    """For each query, the number of candidates whose score is no less than ``best``."""
    sure = values >= high
    count = sure.sum(dim, dtype=torch.int32)
    possible = values >= low
    if torch.equal(possible.sum(dim, dtype=torch.int32), count):
        return count
    rows, columns = torch.nonzero(possible & ~sure).unbind(1)
    reached = exact(rows, columns) >= best.expand_as(values)[rows, columns]
    queries = columns if dim == 0 else rows
    return count + torch.bincount(queries[reached], minlength=len(count))
