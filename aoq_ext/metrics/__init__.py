"""Retrieval metrics of image-text matching: R@1, R@5, R@10, median rank, mean rank, both directions, and rsum.

All of them come from one rank per query (`RetrievalRanks`), and ranks from scores that are never held all at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._sources import RowReader
from .inputs import (
    Matrix,
    Rows,
    as_rows,
    check_comparable,
    check_device,
    check_models_form,
    check_same_rows,
    checked_folds,
    checked_integers,
    checked_owners,
    checked_weights,
)
from .ranking import EmbeddedModel, EmbeddingScores, MatrixScores, count_ranks
from .ranks import RECALL_LEVELS, RetrievalRanks

__all__ = [
    "RECALL_LEVELS",
    "Matrix",
    "RetrievalRanks",
    "RowReader",
    "Rows",
    "ensemble_metrics",
    "ranks_from_embeddings",
    "ranks_from_scores",
    "retrieval_metrics",
    "retrieval_metrics_from_scores",
    "retrieval_ranks",
]


def retrieval_metrics(
    image_embeddings: Matrix,
    text_embeddings: Matrix,
    text_image_index: Tensor,
    folds: int = 1,
) -> dict[str, float]:
    """Recall and rank of the right answer when images retrieve texts (i2t) and texts retrieve images (t2i).

    The score of a pair is its dot product, so embeddings should come normalised as the model compares them. It is
    accumulated in float64 and then compared in float32 (in float64 for float64 embeddings), so half-precision
    embeddings are never scored in half precision, and equal embeddings tie wherever they stand. Every score is computed
    once for both directions, a panel at a time: memory beyond the arguments does not grow with N · T.

    The protocol is that of VSE++ and SCAN. The rank of a query is the rank, from 1, of its best-ranked right answer
    among *all* candidates: for an image, the best of its own texts among all texts; its other own texts are neither
    counted nor awaited. Ties count against the query: a wrong candidate with the same score stands ahead of the right
    one, so a collapsed model whose scores are all equal gets the worst rank, not the best. The median rank is the floor
    of the median (for an even number of queries, of the mean of the middle two), as the authors' evaluation has it.

    Args:
        image_embeddings: (N, D), float32, float16, bfloat16 or float64, any strides: a tensor, or what is read in
            blocks of rows: a numpy array, a memory map, the path of a .npy or .safetensors file, a `RowReader`.
        text_embeddings: (T, D), same dtype and device. Any number of texts per image, but at least one, in any order.
        text_image_index: (T,) integers in [0, N): the row of the image that each text describes.
        folds: the images are split into this many contiguous blocks of equal size, each with its own texts; every
            metric is computed inside each block and averaged. COCO 1K is ``folds=5`` on the 5K test set.

    Returns:
        ``i2t_r1``, ``i2t_r5``, ``i2t_r10`` (percent), ``i2t_medr``, ``i2t_meanr`` (ranks from 1), the same with
        ``t2i_``, and ``rsum``, the sum of the six recalls (at most 600).

    Raises:
        TypeError: an argument is not a tensor or has the wrong dtype.
        ValueError: shapes or devices disagree, an embedding is not finite, scores do not fit the dtype they are
            compared in, an image has no text, there is no image, or the number of images is not divisible by ``folds``.

    Example:
        >>> images = torch.eye(3)
        >>> metrics = retrieval_metrics(images, images[[0, 0, 1, 2]], torch.tensor([0, 0, 1, 2]))
        >>> metrics["rsum"]
        600.0
    """
    images = as_rows("image_embeddings", image_embeddings)
    texts = as_rows("text_embeddings", text_embeddings)
    return _rank_models([EmbeddedModel(images, texts)], text_image_index, folds).metrics()


def ensemble_metrics(
    models: Sequence[tuple[Matrix, Matrix]],
    text_image_index: Tensor,
    folds: int = 1,
    weights: Sequence[float] | None = None,
) -> dict[str, float]:
    """`retrieval_metrics` of several models whose scores are averaged, as the AOQ paper reports them.

    Args:
        models: ``(image_embeddings, text_embeddings)`` of each model, for the same images and texts in the same order.
            Widths and dtypes may differ from model to model; scores are compared in float64 if any model is float64.
        text_image_index, folds: as in `retrieval_metrics`.
        weights: one finite number a model, none negative; by default they are equal. A common factor changes no rank,
            so the scores are added up by weight and not divided.
    """
    return ranks_from_embeddings(models, text_image_index, folds, weights).metrics()


def retrieval_metrics_from_scores(
    scores: Matrix | Sequence[Matrix],
    text_image_index: Tensor,
    folds: int = 1,
    weights: Sequence[float] | None = None,
) -> dict[str, float]:
    """`retrieval_metrics` of given scores, for cross-attention models such as SCAN and BFAN.

    Args:
        scores: (N, T), image i with text t, higher is better, any floating dtype: a tensor, or what is read in
            blocks of rows, as in `retrieval_metrics`; or a sequence of them, which are averaged. They are compared in
            float32, in float64 if any of them is float64.
        text_image_index, folds: as in `retrieval_metrics`.
        weights: one number a matrix, as in `ensemble_metrics`.
    """
    return ranks_from_scores(scores, text_image_index, folds, weights).metrics()


def ranks_from_embeddings(
    models: Sequence[tuple[Matrix, Matrix]],
    text_image_index: Tensor,
    folds: int = 1,
    weights: Sequence[float] | None = None,
) -> RetrievalRanks:
    """The ranks behind `ensemble_metrics`, and with a single model behind `retrieval_metrics`."""
    check_models_form(models)
    opened = [
        EmbeddedModel(as_rows(f"models[{m}][0]", images), as_rows(f"models[{m}][1]", texts), weight)
        for m, ((images, texts), weight) in enumerate(zip(models, checked_weights(weights, len(models)), strict=True))
    ]
    return _rank_models(opened, text_image_index, folds)


@torch.no_grad()
def ranks_from_scores(
    scores: Matrix | Sequence[Matrix],
    text_image_index: Tensor,
    folds: int = 1,
    weights: Sequence[float] | None = None,
) -> RetrievalRanks:
    """The ranks behind `retrieval_metrics_from_scores`."""
    if isinstance(scores, (list, tuple)):
        matrices = [as_rows(f"scores[{m}]", matrix) for m, matrix in enumerate(scores)]
    else:
        matrices = [as_rows("scores", scores)]
    if not matrices:
        raise ValueError("scores must hold at least one matrix, got none")
    first = matrices[0]
    for matrix in matrices[1:]:
        if matrix.shape != first.shape:
            raise ValueError(f"{matrix.name} must have the shape of {first.name}, {first.shape}, got {matrix.shape}")
        check_device(matrix, first)
    count, texts = first.shape
    folds = checked_folds(folds, count)
    owners = checked_owners(text_image_index, count, texts, f"column of {first.name}", first)
    return _ranks(MatrixScores(matrices, checked_weights(weights, len(matrices))), owners, folds)


@torch.no_grad()
def retrieval_ranks(queries: Matrix, candidates: Matrix, query_ids: Tensor, candidate_ids: Tensor) -> Tensor:
    """The rank, from 1, of each query's best right candidate: one more than the wrong candidates that score no less.

    Args:
        queries: (Q, D). candidates: (C, D), same dtype and device.
        query_ids: (Q,) and candidate_ids: (C,), integers; a candidate is right for a query when their ids are equal.

    Returns:
        (Q,) int64. A query without a right candidate ranks C + 1.
    """
    model = EmbeddedModel(as_rows("queries", queries), as_rows("candidates", candidates))
    check_comparable(model.texts, model.images)
    images, texts = (
        checked_integers(name, ids, len(rows), f"one integer per row of {rows.name}", rows.device)
        for name, ids, rows in (
            ("query_ids", query_ids, model.images),
            ("candidate_ids", candidate_ids, model.texts),
        )
    )
    return count_ranks(EmbeddingScores([model]), images, texts, torch.zeros_like(texts))[0]


@torch.no_grad()
def _rank_models(models: Sequence[EmbeddedModel], text_image_index: Tensor, folds: int) -> RetrievalRanks:
    images, texts = models[0].images, models[0].texts
    for model in models:
        check_comparable(model.texts, model.images)
        check_same_rows(model.images, images)
        check_same_rows(model.texts, texts)
    folds = checked_folds(folds, len(images))
    owners = checked_owners(text_image_index, len(images), len(texts), f"row of {texts.name}", images)
    return _ranks(EmbeddingScores(models), owners, folds)


def _ranks(scores: EmbeddingScores | MatrixScores, owners: Tensor, folds: int) -> RetrievalRanks:
    count = scores.shape[0]
    images = torch.arange(count, dtype=torch.int64, device=scores.device)
    i2t, t2i = count_ranks(scores, images, owners, owners // (count // folds), folds)
    return RetrievalRanks(i2t, t2i, owners, folds)
