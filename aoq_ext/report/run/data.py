"""What a report is made from: plain arrays and numbers, no model and no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoq_ext.training.pair_sample import PairSimilarities

Metrics = Mapping[str, float]  # the keys of aoq_ext.metrics.retrieval_metrics


@dataclass(frozen=True)
class Round:
    """One training run."""

    label: str  # "online triplets"
    loss: NDArray[np.float64]  # (E,) mean training loss of each epoch
    validation: Mapping[str, NDArray[np.float64]]  # each (E,): at least rsum, i2t_r1, t2i_r1
    warmup_epochs: int  # the first epochs, trained with online="all"
    best_epoch: int  # counted from 1; the epoch whose weights are evaluated
    similarities: PairSimilarities
    config: Mapping[str, Any]  # nested


@dataclass(frozen=True)
class Split:
    """One evaluation set, with what both rounds reached on it."""

    name: str  # "test"
    title: str  # "held-out concepts"
    images: int
    captions: int
    before: Metrics  # round 1
    after: Metrics  # round 2
    rsum_interval: tuple[float, float]  # 95 % interval of the rsum difference over resampled images


@dataclass(frozen=True)
class Item:
    """An image with one of its captions; a panel shows the side it needs."""

    image: NDArray[np.uint8]  # (3, H, W)
    name: str
    caption: str


@dataclass(frozen=True)
class Answer:
    item: Item
    score: float
    right: bool


@dataclass(frozen=True)
class Query:
    """A query with its highest-scoring answers, best first."""

    item: Item
    answers: tuple[Answer, ...]
    rank: int  # of the best right answer, from 1, after round 2
    rank_before: int  # the same, after round 1


@dataclass(frozen=True)
class MinedImage:
    """A training image, its similarity to its own caption, and the mined captions it was closest to."""

    item: Item
    score: float
    negatives: tuple[Answer, ...]  # hardest first; right is False throughout


@dataclass(frozen=True)
class ReportData:
    dataset: str
    train_images: int
    train_captions: int
    rounds: tuple[Round, Round]
    splits: tuple[Split, ...]
    mined: tuple[MinedImage, ...]
    mined_texts_per_image: int
    mined_images_per_text: int
    image_queries: tuple[Query, ...]
    caption_queries: tuple[Query, ...]
    gallery_split: str  # the name of the split the queries were drawn from
    seconds: Mapping[str, float]  # step -> duration, in the order the steps ran
    date: str  # "2026-07-01 12:30 UTC"
    machine: str
    versions: Mapping[str, str]
    seed: int
