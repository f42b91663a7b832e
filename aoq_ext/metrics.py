"""Retrieval metrics of image-text matching: R@1, R@5, R@10, median rank, mean rank, both directions, and rsum."""

from __future__ import annotations

import torch
from torch import Tensor

from ._embeddings import check_comparable, check_finite, check_ids, check_matrix, rows_of
from ._validation import shape_of

RECALL_LEVELS = (1, 5, 10)

# One panel of scores: 64 MB of float32, whatever the size of the data set.
_PANEL_SCORES = 1 << 24
_CANDIDATE_ELEMENTS = 1 << 22


@torch.no_grad()
def retrieval_metrics(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    text_image_index: Tensor,
    folds: int = 1,
) -> dict[str, float]:
    """Recall and rank of the right answer when images retrieve texts (i2t) and texts retrieve images (t2i).

    The score of a pair is its dot product, so embeddings should come normalised as the model compares them. It is
    accumulated in float64 and then compared in float32 (in float64 for float64 embeddings), so half-precision
    embeddings are never scored in half precision and equal embeddings tie.

    The protocol is that of VSE++ and SCAN. The rank of a query is the rank, from 1, of its best-ranked right answer
    among *all* candidates: for an image, the best of its own texts among all texts; its other own texts are neither
    counted nor awaited. Ties count against the query: a wrong candidate with the same score stands ahead of the right
    one, so a collapsed model whose scores are all equal gets the worst rank, not the best. The median rank is the floor
    of the median (for an even number of queries, of the mean of the middle two), as the authors' evaluation has it.

    Args:
        image_embeddings: (N, D), float32, float16, bfloat16 or float64, any strides.
        text_embeddings: (T, D), same dtype and device. Any number of texts per image, but at least one, in any order.
        text_image_index: (T,) integers in [0, N): the row of the image that each text describes.
        folds: the images are split into this many contiguous blocks of equal size, each with its own texts; every
            metric is computed inside each block and averaged. COCO 1K is ``folds=5`` on the 5K test set.

    Returns:
        ``i2t_r1``, ``i2t_r5``, ``i2t_r10`` (percent), ``i2t_medr``, ``i2t_meanr`` (ranks from 1), the same with
        ``t2i_``, and ``rsum``, the sum of the six recalls (at most 600).

    Raises:
        TypeError: an argument is not a tensor or has the wrong dtype.
        ValueError: shapes or devices disagree, an embedding is not finite, an image has no text, there is no image, or
            the number of images is not divisible by ``folds``.

    Example:
        >>> images = torch.eye(3)
        >>> metrics = retrieval_metrics(images, images[[0, 0, 1, 2]], torch.tensor([0, 0, 1, 2]))
        >>> metrics["rsum"]
        600.0
    """
    _check(image_embeddings, text_embeddings, text_image_index, folds)
    image_rows = torch.arange(image_embeddings.shape[0], device=image_embeddings.device)
    owners = text_image_index.long()

    per_fold = []
    for images_in_fold in image_rows.chunk(folds):
        texts_in_fold = torch.nonzero((owners >= images_in_fold[0]) & (owners <= images_in_fold[-1])).flatten()
        images, texts = image_embeddings[images_in_fold], text_embeddings[texts_in_fold]
        i2t = retrieval_ranks(images, texts, images_in_fold, owners[texts_in_fold])
        t2i = retrieval_ranks(texts, images, owners[texts_in_fold], images_in_fold)
        per_fold.append(_summary("i2t", i2t) | _summary("t2i", t2i))

    metrics = {key: sum(fold[key] for fold in per_fold) / folds for key in per_fold[0]}
    metrics["rsum"] = sum(metrics[f"{way}_r{level}"] for way in ("i2t", "t2i") for level in RECALL_LEVELS)
    return metrics


@torch.no_grad()
def retrieval_ranks(queries: Tensor, candidates: Tensor, query_ids: Tensor, candidate_ids: Tensor) -> Tensor:
    """The rank, from 1, of each query's best right candidate: one more than the wrong candidates that score no less.

    Args:
        queries: (Q, D). candidates: (C, D), same dtype and device.
        query_ids: (Q,) and candidate_ids: (C,), integers; a candidate is right for a query when their ids are equal.

    Returns:
        (Q,) int64. A query without a right candidate ranks C + 1.
    """
    ranks = torch.empty(queries.shape[0], dtype=torch.int64, device=queries.device)
    step = max(1, _PANEL_SCORES // max(1, candidates.shape[0]))
    for start in range(0, queries.shape[0], step):
        panel = slice(start, start + step)
        scores = _panel_scores(queries[panel], candidates)
        right = query_ids[panel, None] == candidate_ids[None, :]
        best_right = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        ranks[panel] = 1 + ((scores >= best_right) & ~right).sum(dim=1)
    return ranks


def _panel_scores(queries: Tensor, candidates: Tensor) -> Tensor:
    """Scores (q, C) of queries (q, D) with all candidates (C, D): float64 sums, kept in float32 for such input."""
    dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
    scores = torch.empty(queries.shape[0], candidates.shape[0], dtype=dtype, device=queries.device)
    queries = queries.double()
    step = max(1, _CANDIDATE_ELEMENTS // candidates.shape[1])
    for start in range(0, candidates.shape[0], step):
        scores[:, start : start + step] = queries @ candidates[start : start + step].double().T
    return scores


def _summary(way: str, ranks: Tensor) -> dict[str, float]:
    """Recall at each level in percent, median and mean of the ranks (n,), n at least 1, under the keys of ``way``."""
    ordered = ranks.sort().values
    middle = ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]
    recalls = {f"{way}_r{level}": 100.0 * int((ranks <= level).sum()) / len(ranks) for level in RECALL_LEVELS}
    return recalls | {f"{way}_medr": float(middle // 2), f"{way}_meanr": int(ranks.sum()) / len(ranks)}


def _check(images: Tensor, texts: Tensor, text_image_index: Tensor, folds: int) -> None:
    check_matrix("image_embeddings", images)
    check_comparable("text_embeddings", texts, images, "image_embeddings")
    check_ids("text_image_index", text_image_index, texts, "text_embeddings")
    if isinstance(folds, bool) or not isinstance(folds, int):
        raise TypeError(f"folds must be an int, got {type(folds).__name__}")

    count = images.shape[0]
    if count == 0:
        raise ValueError(f"image_embeddings must hold at least one image, got {shape_of(images)}")
    if folds < 1 or count % folds:
        raise ValueError(f"folds must be a positive divisor of the {count} images, got {folds}")
    owners = text_image_index.long()  # count may not fit the dtype that came
    outside = torch.nonzero((owners < 0) | (owners >= count)).flatten()
    if outside.numel() > 0:
        value = int(text_image_index[outside[0]])
        raise ValueError(f"text_image_index must be in [0, {count}), got {value} in {rows_of(outside)}")
    without_text = torch.nonzero(torch.bincount(text_image_index.long(), minlength=count) == 0).flatten()
    if without_text.numel() > 0:
        raise ValueError(f"text_image_index must give every image a text, got none for {rows_of(without_text)}")
    check_finite("image_embeddings", images)
    check_finite("text_embeddings", texts)
