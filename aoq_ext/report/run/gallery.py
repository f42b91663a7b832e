"""Choosing the examples of the report, and finding what a model answers to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aoq_ext.data import ImageTextData
from aoq_ext.mining.captions import normalised
from aoq_ext.report.run.data import Answer, Item, MinedImage, Query

ANSWERS = 5
_PER_OUTCOME = 3
_MINED_IMAGES = 6
_MINED_CAPTIONS = 4

Matrix = NDArray[np.float32]
Ranks = NDArray[np.int64]


def item(data: ImageTextData, image: int, caption: int | None = None) -> Item:
    """An image with the given caption, or with its first."""
    text = data.captions_of(image)[0] if caption is None else data.captions[caption]
    return Item(data.images[image], data.image_names[image], text)


def choose(ranks: Ranks, seed: int) -> list[int]:
    """Queries drawn at random: as many that are answered right at once as are not; fewer where there are fewer."""
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for group in (np.flatnonzero(ranks == 1), np.flatnonzero(ranks > 1)):
        drawn = generator.permutation(group)[:_PER_OUTCOME]
        chosen += sorted((int(query) for query in drawn), key=lambda query: int(ranks[query]))
    return chosen


def image_queries(
    data: ImageTextData, images: Matrix, texts: Matrix, ranks: Ranks, ranks_before: Ranks, seed: int
) -> tuple[Query, ...]:
    """images: (N, D); texts: (M, D); ranks: (N,)"""
    queries = []
    for image in choose(ranks, seed):
        scores = texts @ images[image]
        answers = tuple(
            Answer(
                item(data, int(data.caption_image[caption]), caption),
                float(scores[caption]),
                bool(data.caption_image[caption] == image),
            )
            for caption in _top(scores)
        )
        queries.append(Query(item(data, image), answers, int(ranks[image]), int(ranks_before[image])))
    return tuple(queries)


def caption_queries(
    data: ImageTextData, images: Matrix, texts: Matrix, ranks: Ranks, ranks_before: Ranks, seed: int
) -> tuple[Query, ...]:
    """images: (N, D); texts: (M, D); ranks: (M,)"""
    queries = []
    for caption in choose(ranks, seed):
        scores = images @ texts[caption]
        own = int(data.caption_image[caption])
        answers = tuple(Answer(item(data, image), float(scores[image]), image == own) for image in _top(scores))
        queries.append(Query(item(data, own, caption), answers, int(ranks[caption]), int(ranks_before[caption])))
    return tuple(queries)


def mined_examples(data: ImageTextData, hard_texts: NDArray[np.int32], seed: int) -> list[tuple[int, list[int]]]:
    """Training images drawn at random, one a group, each with the hardest captions of its list that differ in words.

    hard_texts: (N, k) as mined, −1 where there are no more.
    """
    order = np.random.default_rng(seed).permutation(len(data))
    first_of_group = np.sort(np.unique(data.group_ids[order], return_index=True)[1])
    examples = []
    for image in order[first_of_group[:_MINED_IMAGES]]:
        different: dict[str, int] = {}
        for caption in hard_texts[image]:
            if caption >= 0:
                different.setdefault(normalised(data.captions[caption]), int(caption))
        examples.append((int(image), list(different.values())[:_MINED_CAPTIONS]))
    return examples


def mined_image(data: ImageTextData, image: int, own_score: float, captions: list[int], scores: Matrix) -> MinedImage:
    """scores: (len(captions),)"""
    negatives = tuple(
        Answer(item(data, int(data.caption_image[caption]), caption), float(score), False)
        for caption, score in zip(captions, scores, strict=True)
    )
    return MinedImage(item(data, image), own_score, negatives)


def _top(scores: Matrix) -> list[int]:
    """The highest scores, ties by the lower index."""
    return [int(index) for index in np.argsort(-scores, kind="stable")[:ANSWERS]]
