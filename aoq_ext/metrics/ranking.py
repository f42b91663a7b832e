"""Ranks of both directions from one walk over the scores, a panel at a time.

The rank of a query is one more than the wrong candidates that score no less than its best right one: ties count against
the query. The right pairs are few, so their scores come first, each computed alone; then every panel of scores is
counted in both directions and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .._embeddings import sum_difference
from .._sources import check_all_finite
from .inputs import Rows

# One panel of scores, and the embeddings of either side that it is made from, in float64: 8 MB each.
_PANEL_SCORES = 1 << 20
_PANEL_ELEMENTS = 1 << 20
_MOST_ROWS = 1024  # of a panel, in either direction: enough for the speed of a product


class Scores(Protocol):
    """All scores of N images with T texts."""

    shape: tuple[int, int]
    device: torch.device
    dtype: torch.dtype  # in which scores are compared: float32 or float64
    panel_shape: tuple[int, int]  # a panel has at most so many images and is made of a range of so many texts

    def panel(self, images: slice, texts: Tensor) -> Tensor:
        """(n, t), new: a range of images with texts (t,), ascending, of a range."""

    def pairs(self, images: slice, texts: Tensor, i: Tensor, t: Tensor) -> Tensor:
        """(P,): the least that a panel has for a pair which scores no less than pair (i, t), places in this panel."""


def count_ranks(
    scores: Scores,
    image_ids: Tensor,  # (N,) int64
    text_ids: Tensor,  # (T,) int64: a text is right for an image, and the image for it, when their ids are equal
    text_folds: Tensor,  # (T,) int64 in [0, folds): with which block of images a text is compared
    folds: int = 1,  # the images are split into so many contiguous blocks of equal size
) -> tuple[Tensor, Tensor]:
    """Ranks of the images among the texts of their fold (N,), of the texts among the images of theirs (T,), int64.

    A query without a right candidate ranks behind all.
    """

    def walk() -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Every image with every text of its fold, once, and where (n, t) the text is right."""
        (count, total), (rows, columns) = scores.shape, scores.panel_shape
        size = count // folds
        for fold in range(folds):
            end = (fold + 1) * size
            for first in range(fold * size, end, rows):
                images = slice(first, min(first + rows, end))
                for start in range(0, total, columns):
                    texts = start + torch.nonzero(text_folds[start : start + columns] == fold).flatten()
                    if texts.numel() > 0:
                        yield images, texts, image_ids[images, None] == text_ids[None, texts]

    best = [torch.full((size,), -torch.inf, dtype=scores.dtype, device=scores.device) for size in scores.shape]
    for images, texts, right in walk():
        i, t = torch.nonzero(right).unbind(1)
        if i.numel() > 0:
            own = scores.pairs(images, texts, i, t)
            best[0][images].scatter_reduce_(0, i, own, "amax")
            best[1].scatter_reduce_(0, texts[t], own, "amax")

    ranks = [torch.ones(size, dtype=torch.int64, device=scores.device) for size in scores.shape]
    for images, texts, right in walk():
        panel = scores.panel(images, texts).masked_fill_(right, -torch.inf)
        ranks[0][images] += (panel >= best[0][images, None]).sum(1, dtype=torch.int32)
        ranks[1][texts] += (panel >= best[1][None, texts]).sum(0, dtype=torch.int32)
    return ranks[0], ranks[1]


@dataclass(frozen=True, eq=False)
class EmbeddedModel:
    """The embeddings of one model, and the weight of its scores."""

    images: Rows  # (N, D)
    texts: Rows  # (T, D)
    weight: float = 1.0


class EmbeddingScores:
    """Scores are dot products, of several models their sum by weight: an ordinary float64 product, then rounded.

    Where a pair stands in a product decides the order of its sum, hence its last bits. The score of a right pair is
    therefore lowered by what two orders can differ in, so that equal embeddings tie wherever they stand.
    """

    def __init__(self, models: Sequence[EmbeddedModel]) -> None:
        images, texts = models[0].images, models[0].texts
        self._models = models
        self.shape = len(images), len(texts)
        self.device = images.device
        self.dtype = _compared_in([model.images for model in models])
        widest = max(model.images.shape[1] for model in models)
        affordable = max(1, min(_MOST_ROWS, _PANEL_ELEMENTS // widest))
        self.panel_shape = max(1, min(affordable, _PANEL_SCORES // affordable)), affordable
        self._pairs_at_a_time = max(1, _PANEL_ELEMENTS // widest)
        self._difference = sum_difference(widest + len(models))
        greatest = 0.0
        for model in models:
            norms = [check_all_finite(rows.name, rows) for rows in (model.images, model.texts)]
            greatest += model.weight * norms[0] * norms[1]
        if not greatest < torch.finfo(self.dtype).max / 2:
            dtype = str(self.dtype).removeprefix("torch.")
            raise ValueError(
                f"{images.name} and {texts.name} must have scores that fit {dtype}, "
                f"got norms whose products reach {greatest:.3g}"
            )

    def panel(self, images: slice, texts: Tensor) -> Tensor:
        size = images.stop - images.start, len(texts)
        total = torch.zeros(size, dtype=torch.float64, device=self.device)
        for model in self._models:
            total.addmm_(*self._read(model, images, texts), alpha=model.weight)
        return total.to(self.dtype)

    def pairs(self, images: slice, texts: Tensor, i: Tensor, t: Tensor) -> Tensor:
        least = torch.zeros(len(i), dtype=torch.float64, device=self.device)
        for model in self._models:
            image_rows, text_columns = self._read(model, images, texts)
            for start in range(0, len(i), self._pairs_at_a_time):
                some = slice(start, start + self._pairs_at_a_time)
                terms = model.weight * image_rows[i[some]] * text_columns.T[t[some]]
                least[some] += terms.sum(1) - self._difference * terms.abs().sum(1)
        return least.to(self.dtype)

    def _read(self, model: EmbeddedModel, images: slice, texts: Tensor) -> tuple[Tensor, Tensor]:
        """(n, D) and (D, t), float64"""
        first, last = int(texts[0]), int(texts[-1])
        rows = model.texts.rows(first, last + 1)
        if len(rows) > len(texts):
            rows = rows[texts - first]
        return model.images.rows(images.start, images.stop).double(), rows.double().T


class MatrixScores:
    """Scores are given; those of several matrices are summed in float64 by weight, in their order, then rounded."""

    def __init__(self, matrices: Sequence[Rows], weights: Sequence[float]) -> None:
        self._weighted = list(zip(matrices, weights, strict=True))
        self.shape = matrices[0].shape
        self.device = matrices[0].device
        self.dtype = _compared_in(matrices)
        self.panel_shape = max(1, _PANEL_SCORES // self.shape[1]), self.shape[1]  # whole rows: what a file is good at
        for matrix in matrices:
            check_all_finite(matrix.name, matrix)

    def panel(self, images: slice, texts: Tensor) -> Tensor:
        return self._sum(images, (slice(None), texts if len(texts) < self.shape[1] else slice(None)))

    def pairs(self, images: slice, texts: Tensor, i: Tensor, t: Tensor) -> Tensor:
        return self._sum(images, (i, texts[t]))

    def _sum(self, images: slice, places: tuple[Tensor | slice, Tensor | slice]) -> Tensor:
        (matrix, weight), *others = self._weighted
        total = matrix.rows(images.start, images.stop)[places].double() * weight
        for matrix, weight in others:
            total += matrix.rows(images.start, images.stop)[places].double() * weight
        return total.to(self.dtype)


def _compared_in(matrices: Sequence[Rows]) -> torch.dtype:
    return torch.float64 if any(matrix.dtype == torch.float64 for matrix in matrices) else torch.float32
