"""A made-up mining, with everything that a record of one can hold."""

from __future__ import annotations

import numpy as np

from aoq_ext.mining.statistics import MiningRecord, RankedLists


def lists_of(scores: np.ndarray, k: int) -> RankedLists:
    """The k highest of each row, ties to the lower index, −inf meaning that a pair is excluded."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    indices = np.where(np.isfinite(found), order, -1)
    if indices.shape[1] < k:
        room = ((0, 0), (0, k - indices.shape[1]))
        indices, found = np.pad(indices, room, constant_values=-1), np.pad(found, room, constant_values=-np.inf)
    return RankedLists(indices.astype(np.int32), found)


def make_data(images: int = 30, per_image: int = 2, k: int = 12, seed: int = 0) -> MiningRecord:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(images, 6))
    owner = np.repeat(np.arange(images), per_image)
    y = x[owner] + 0.8 * generator.normal(size=(len(owner), 6))
    scores = x @ y.T
    positive = scores[owner, np.arange(len(owner))].astype(np.float32)
    scores[owner, np.arange(len(owner))] = -np.inf
    before = scores + generator.normal(size=scores.shape)
    return MiningRecord(
        title="Mined",
        texts=lists_of(scores, k),
        text_count=len(owner),
        images=lists_of(scores.T, k),
        text_positive=positive,
        text_image_index=owner,
        captions=[f"caption {number % 7}" for number in range(len(owner))],
        image_names=[f"name {number}" for number in range(images)],
        picture=lambda image: np.full((3, 8, 8), image, np.uint8),
        earlier=lists_of(before, k - 3),
        earlier_images=lists_of(before.T, k + 5),
        seconds={"embedding": 1.0, "mining": 2.0},
        excluded=["Own captions are never listed."],
        facts={"model": "made up"},
        date="2026-07-01",
    )


def empty_lists(anchors: int, k: int) -> RankedLists:
    return RankedLists(np.full((anchors, k), -1), np.full((anchors, k), -np.inf, np.float32))
