"""Choosing the examples of the report, and finding what a model answers to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aoq_ext.data import ImageTextData
from aoq_ext.metrics import RetrievalRanks
from aoq_ext.mining.captions import normalised
from aoq_ext.report.run.data import Answer, Item, MinedImage, Panel, Query

ANSWERS = 5
_SHOWN = 6
_MINED_IMAGES = 6
_MINED_CAPTIONS = 4

Matrix = NDArray[np.float32]
Ranks = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """What one model makes of one split."""

    images: Matrix  # (N, D)
    texts: Matrix  # (M, D)
    ranks: RetrievalRanks


def item(data: ImageTextData, image: int, caption: int | None = None) -> Item:
    """An image with the given caption, or with its first."""
    text = data.captions_of(image)[0] if caption is None else data.captions[caption]
    return Item(data.images[image], data.image_names[image], text)


def choose(ranks: Ranks, before: Ranks, seed: int) -> list[int]:
    """Queries drawn at random: first those that are answered right now and were not before, then any others."""
    generator = np.random.default_rng(seed)
    gained = (ranks == 1) & (before > 1)
    drawn = [int(query) for group in (gained, ~gained) for query in generator.permutation(np.flatnonzero(group))]
    return drawn[:_SHOWN]


def image_queries(data: ImageTextData, after: Answers, before: Answers, seed: int) -> Panel:
    """Images that ask for their captions."""

    def query(image: int) -> Query:
        def answer(caption: int, score: float) -> Answer:
            owner = int(data.caption_image[caption])
            return Answer(item(data, owner, caption), score, owner == image)

        scores, scores_before = (model.texts @ model.images[image] for model in (after, before))
        return _query(item(data, image), ranks[image], ranks_before[image], scores, scores_before, answer)

    ranks, ranks_before = after.ranks.i2t.numpy(), before.ranks.i2t.numpy()
    return _panel(ranks, ranks_before, query, seed)


def caption_queries(data: ImageTextData, after: Answers, before: Answers, seed: int) -> Panel:
    """Captions that ask for their image."""

    def query(caption: int) -> Query:
        own = int(data.caption_image[caption])

        def answer(image: int, score: float) -> Answer:
            return Answer(item(data, image), score, image == own)

        scores, scores_before = (model.images @ model.texts[caption] for model in (after, before))
        return _query(item(data, own, caption), ranks[caption], ranks_before[caption], scores, scores_before, answer)

    ranks, ranks_before = after.ranks.t2i.numpy(), before.ranks.t2i.numpy()
    return _panel(ranks, ranks_before, query, seed)


def _panel(ranks: Ranks, before: Ranks, query: Callable[[int], Query], seed: int) -> Panel:
    gained, lost = np.sum((ranks == 1) & (before > 1)), np.sum((ranks > 1) & (before == 1))
    return Panel(tuple(query(number) for number in choose(ranks, before, seed)), int(gained), int(lost))


def _query(
    asked: Item,
    rank: int,
    rank_before: int,
    scores: Matrix,
    scores_before: Matrix,
    answer: Callable[[int, float], Answer],
) -> Query:
    """scores: (K,) of every candidate; answer: of a candidate with its score"""
    answers = tuple(answer(number, float(scores[number])) for number in _by_score(scores)[:ANSWERS])
    mistaken = None
    if rank_before > 1:
        ordered = (answer(number, float(scores_before[number])) for number in _by_score(scores_before))
        mistaken = next(each for each in ordered if not each.right)
    return Query(asked, answers, int(rank), int(rank_before), mistaken)


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


def _by_score(scores: Matrix) -> list[int]:
    """The highest first, ties by the lower index."""
    return [int(index) for index in np.argsort(-scores, kind="stable")]
