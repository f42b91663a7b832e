"""Where the scores of images with texts come from: a panel at a time, never all at once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._embeddings import rows_of
from ..mining.plain import ordered_dot
from .rows import Rows

_MOST_ROWS = 1024  # of a panel, in either direction: enough for the speed of a product
_PAIR_ELEMENTS = 1 << 18  # 2 MB a side, which a cache holds through the many small steps of an ordered sum


class Panel(ABC):
    """The scores of n images with t texts."""

    @abstractmethod
    def values(self) -> Tensor:
        """(n, t): the scores up to the slack of the scorer; a new tensor that the caller may write to."""

    @abstractmethod
    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(p,): the scores of pairs (p,) of this panel, as they are compared."""


class Scorer(ABC):
    """All scores of N images with T texts."""

    shape: tuple[int, int]
    device: torch.device
    dtype: torch.dtype  # in which scores are compared: float32 or float64
    image_rows: int  # a panel has at most so many images,
    text_rows: int  # and so many texts
    image_slack: Tensor  # (N,) float64: no value of an image's row is further from the exact score
    text_slack: Tensor  # (T,) float64: likewise

    @abstractmethod
    def panel(self, images: slice, texts: slice, columns: Tensor) -> Panel:
        """The panel of a range of images with those texts of a range whose numbers within it are ``columns``."""

    def bounds(self, best: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """For scores ``best`` (n,): a value below ``low`` (n,) stands for a lower score, from ``high`` on for no lower.

        A score is an exact sum rounded to ``dtype``, so it reaches ``best`` when the sum passes the middle between
        ``best`` and the number below it. In float64 nothing is rounded, and the sum itself must reach ``best``.
        """
        limit = best.double()
        if self.dtype == torch.float32:
            limit = (limit + torch.nextafter(best, torch.full_like(best, -torch.inf)).double()) / 2
        return limit - slack, limit + slack


@dataclass(frozen=True, eq=False)
class Model:
    """The embeddings of one model, and the weight of its scores."""

    images: Rows  # (N, D)
    texts: Rows  # (T, D)
    weight: float


class EmbeddingScorer(Scorer):
    """Scores are dot products, of several models their weighted sum.

    The score of a pair is defined once, as in mining: `ordered_dot` in float64, times the weight, summed over the
    models in their order, rounded to float32 (not rounded if a model is float64). So equal embeddings tie wherever
    they stand. A panel holds an ordinary float64 product, which sums in an order of its own; how far that can be from
    the defined score is the slack, and only comparisons closer than the slack need the defined sum.
    """

    def __init__(self, models: Sequence[Model], panel_scores: int, candidate_elements: int) -> None:
        first = models[0]
        self._models = models
        self.shape = (len(first.images), len(first.texts))
        self.device = first.images.device
        self.dtype = _compared_in([model.images for model in models])
        affordable = max(1, min(_MOST_ROWS, candidate_elements // max(model.images.shape[1] for model in models)))
        self.text_rows = min(affordable, max(1, self.shape[1]))
        self.image_rows = max(1, min(affordable, panel_scores // self.text_rows))

        self.image_slack = torch.zeros(self.shape[0], dtype=torch.float64, device=self.device)
        self.text_slack = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)
        greatest = 0.0
        for model in models:
            image_norms, text_norms = _norms(model.images, affordable), _norms(model.texts, affordable)
            largest_image, largest_text = _largest(image_norms), _largest(text_norms)
            bound = abs(model.weight) * _sum_difference(model.images.shape[1] + len(models))
            self.image_slack += bound * largest_text * image_norms + torch.finfo(torch.float64).tiny
            self.text_slack += bound * largest_image * text_norms + torch.finfo(torch.float64).tiny
            greatest += abs(model.weight) * largest_image * largest_text
        if not greatest < torch.finfo(self.dtype).max / 2:
            dtype = str(self.dtype).removeprefix("torch.")
            raise ValueError(
                f"{first.images.name} and {first.texts.name} must have scores that fit {dtype}, "
                f"got norms whose products reach {greatest:.3g}"
            )

    def panel(self, images: slice, texts: slice, columns: Tensor) -> Panel:
        return _EmbeddingPanel(
            [
                (
                    model.images.read(images.start, images.stop).double(),
                    model.texts.read(texts.start, texts.stop)[columns].double(),
                    model.weight,
                )
                for model in self._models
            ],
            self.dtype,
        )


class _EmbeddingPanel(Panel):
    def __init__(self, models: list[tuple[Tensor, Tensor, float]], dtype: torch.dtype) -> None:
        self._models = models  # images (n, D), texts (t, D), both float64, and the weight
        self._dtype = dtype

    def values(self) -> Tensor:
        (images, texts, weight), *others = self._models
        values = images @ texts.T
        if weight != 1.0:
            values *= weight
        for images, texts, weight in others:
            values.addmm_(images, texts.T, alpha=weight)
        return values

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        step = max(1, _PAIR_ELEMENTS // max(images.shape[1] for images, _, _ in self._models))
        scores = torch.empty(len(rows), dtype=self._dtype, device=rows.device)
        for start in range(0, len(rows), step):
            pairs = slice(start, start + step)
            total = torch.zeros(len(rows[pairs]), dtype=torch.float64, device=rows.device)
            for images, texts, weight in self._models:
                total += weight * ordered_dot(images[rows[pairs]], texts[columns[pairs]])
            scores[pairs] = total
        return scores


class MatrixScorer(Scorer):
    """Scores are given; those of several matrices are summed in float64 by weight, in their order, then rounded."""

    def __init__(self, matrices: Sequence[Rows], weights: Sequence[float], panel_scores: int) -> None:
        self._matrices, self._weights = matrices, weights
        self.shape = matrices[0].shape
        self.device = matrices[0].device
        self.dtype = _compared_in(matrices)
        self.text_rows = self.shape[1]  # whole rows are what a file is good at
        self.image_rows = max(1, panel_scores // self.shape[1])
        self.image_slack = torch.zeros(self.shape[0], dtype=torch.float64, device=self.device)
        self.text_slack = torch.zeros(self.shape[1], dtype=torch.float64, device=self.device)

    def panel(self, images: slice, texts: slice, columns: Tensor) -> Panel:
        blocks = [self._block(matrix, images, texts, columns) for matrix in self._matrices]
        if self._weights == [1.0]:
            return _MatrixPanel(blocks[0].to(self.dtype))
        total = torch.zeros(blocks[0].shape, dtype=torch.float64, device=self.device)
        for block, weight in zip(blocks, self._weights, strict=True):
            total += weight * block.double()
        return _MatrixPanel(total.to(self.dtype))

    def _block(self, matrix: Rows, images: slice, texts: slice, columns: Tensor) -> Tensor:
        block = matrix.read(images.start, images.stop)
        _check_finite_block(matrix.name, block, images.start)
        return block if len(columns) == self.shape[1] else block[:, texts.start + columns]

    def bounds(self, best: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        return best, best


class _MatrixPanel(Panel):
    def __init__(self, scores: Tensor) -> None:
        self._scores = scores

    def values(self) -> Tensor:
        return self._scores.clone()

    def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
        return self._scores[rows, columns]


def _compared_in(matrices: Sequence[Rows]) -> torch.dtype:
    return torch.float64 if any(matrix.dtype == torch.float64 for matrix in matrices) else torch.float32


def _sum_difference(terms: int) -> float:
    """A bound on the difference of two float64 sums of the same products in any order, relative to the norms' product.

    Each sum is within terms * u / (1 - terms * u) of the exact one (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1), u = eps / 2; the extra terms cover a weight, the norms and the rounding of the bound.
    """
    return (terms + 4) * torch.finfo(torch.float64).eps


def _norms(matrix: Rows, step: int) -> Tensor:
    """(rows,) float64: the length of every row of a finite matrix; the ValueError names the rows that are not."""
    norms = torch.empty(len(matrix), dtype=torch.float64, device=matrix.device)
    for start in range(0, len(matrix), step):
        block = matrix.read(start, min(start + step, len(matrix)))
        norms[start : start + step] = torch.linalg.vector_norm(block, dim=1, dtype=torch.float64)
        if not math.isfinite(float(norms[start : start + step].amax())):
            _check_finite_block(matrix.name, block, start)
    return norms


def _largest(norms: Tensor) -> float:
    return float(norms.amax()) if norms.numel() else 0.0


def _check_finite_block(name: str, block: Tensor, first: int) -> None:
    bad = torch.nonzero(~torch.isfinite(block).all(dim=1)).flatten()
    if bad.numel() > 0:
        raise ValueError(f"{name} must be finite, got NaN or infinity in {rows_of(first + bad)}")
