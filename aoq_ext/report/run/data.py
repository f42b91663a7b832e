"""What a report is made from: plain arrays and numbers, no model and no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoq_ext.training.pair_sample import PairSimilarities
from aoq_ext.training.recipe import compared_with

Metrics = Mapping[str, float]  # the keys of aoq_ext.metrics.retrieval_metrics


FROM_NOTHING = "random weights"


@dataclass(frozen=True)
class Round:
    """One training run."""

    label: str  # "online triplets"
    start: str  # whose weights it began with: "random weights" or the name of another
    pairs: NDArray[np.int64]  # (E,) how often an image and a caption had passed its encoders by the end of each epoch
    loss: NDArray[np.float64]  # (E,) mean training loss of each epoch
    validation: Mapping[str, NDArray[np.float64]]  # each (E,): at least rsum, i2t_r1, t2i_r1
    warmup_epochs: int  # the first epochs, trained with online="all"
    best_epoch: int  # counted from 1; the epoch whose weights are evaluated
    similarities: PairSimilarities
    config: Mapping[str, Any]  # nested

    @property
    def pairs_encoded(self) -> int:
        """In the whole run."""
        return int(self.pairs[-1])


@dataclass(frozen=True)
class Split:
    """One evaluation set, with what every run reached on it."""

    name: str  # "test"
    title: str  # "unseen names"
    images: int
    captions: int
    metrics: Mapping[str, Metrics]  # by run
    intervals: Mapping[str, tuple[float, float]]  # 95 % intervals of after − before over resampled images, by measure

    @property
    def before(self) -> Metrics:
        return self.metrics[compared_with(self.metrics)]

    @property
    def after(self) -> Metrics:
        return self.metrics["round 2"]


@dataclass(frozen=True)
class Item:
    """An image with one of its captions; a panel shows the side it needs."""

    image: NDArray[np.uint8]  # (C, H, W), C = 1 or 3
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
    rank: int  # of the best right answer, from 1, in round 2's model
    rank_before: int  # the same, in the model that it is compared with
    mistaken: Answer | None  # the wrong answer that was first there; None where a right one was


@dataclass(frozen=True)
class Panel:
    """Some queries of one direction, and how many of all changed between the two models that are compared."""

    queries: tuple[Query, ...]
    gained: int  # with a right answer first in round 2's model alone
    lost: int  # in the other alone


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
    runs: Mapping[str, Round]  # round 1, round 2 and perhaps control
    splits: tuple[Split, ...]
    mined: tuple[MinedImage, ...]
    mined_texts_per_image: int
    mined_images_per_text: int
    image_queries: Panel
    caption_queries: Panel
    gallery_split: str  # the name of the split the queries were drawn from
    seconds: Mapping[str, float]  # step -> duration, in the order the steps ran
    date: str  # "2026-07-01 12:30 UTC"
    machine: str
    versions: Mapping[str, str]
    seed: int

    @property
    def baseline(self) -> str:
        return compared_with(self.runs)
