"""Batches of mined neighbours."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from aoq_ext import HardNegativeBatchSampler, OfflineNegativeSampler
from aoq_ext.lists.hard_batches import add_owners

IMAGES, PER_IMAGE = 60, 2
TEXT_IMAGE = torch.arange(IMAGES).repeat_interleave(PER_IMAGE)


def ring(reach: int = 3) -> OfflineNegativeSampler:
    """The hard negatives of every image are the images after it, and their texts."""
    after = (torch.arange(IMAGES)[:, None] + torch.arange(1, reach + 1)) % IMAGES  # (N, reach)
    return OfflineNegativeSampler(after * PER_IMAGE, after[TEXT_IMAGE], TEXT_IMAGE, seed=3)


def test_owners_are_mined_negatives_of_the_rest() -> None:
    batches = HardNegativeBatchSampler(ring(), batch_size=12, share=0.5)
    for batch in batches:
        images = TEXT_IMAGE[torch.tensor(batch)]
        assert len(batch) == 12 == len(images.unique())
        seeds, owners = images[:6], images[6:]
        distance = (owners[:, None] - seeds) % IMAGES
        assert ((distance >= 1) & (distance <= 3)).any(dim=1).all()


def test_every_image_is_drawn_as_often_and_owners_come_on_top() -> None:
    batches = HardNegativeBatchSampler(ring(), batch_size=12, share=0.5, seed=5)
    steps = 2 * IMAGES // 6  # two passes of 6 pairs a batch
    seeds = Counter(int(TEXT_IMAGE[text]) for step in range(steps) for text in batches.batch(step)[:6])
    assert set(seeds.values()) == {2} and len(seeds) == IMAGES


def test_batches_are_a_function_of_seed_and_step() -> None:
    one, other = (HardNegativeBatchSampler(ring(), 12, 0.25, seed=1) for _ in range(2))
    every = [one.batch(step) for step in range(12)]
    assert [other.batch(step) for step in (11, 3)] == [every[11], every[3]]
    other.set_epoch(1)
    assert list(other) == every[5:10] and len(other) == 5
    assert HardNegativeBatchSampler(ring(), 12, 0.25, seed=2).batch(0) != every[0]


def test_without_a_share_batches_are_as_ever() -> None:
    batch = [text for each in HardNegativeBatchSampler(ring(), 12, 0.0) for text in each]
    assert sorted(TEXT_IMAGE[torch.tensor(batch)].tolist()) == list(range(IMAGES))


def test_places_that_lists_leave_are_filled_at_random() -> None:
    """Every image has the same two hard negatives: a batch of 12 takes them once."""
    hard = torch.where(torch.arange(IMAGES)[:, None] < 2, torch.tensor([[2, 3]]), torch.tensor([[0, 1]]))
    negatives = OfflineNegativeSampler(hard * PER_IMAGE, hard[TEXT_IMAGE], TEXT_IMAGE)
    own = np.arange(10, 16)
    image, text = add_owners(negatives, own, own * PER_IMAGE, 6, step=0)
    assert image[:6].tolist() == own.tolist() and set(image[6:8].tolist()) == {0, 1}
    assert len(set(image.tolist())) == 12
    assert (TEXT_IMAGE[torch.from_numpy(text)] == torch.from_numpy(image)).all()


def test_a_loader_takes_the_batches() -> None:
    batches = HardNegativeBatchSampler(ring(), batch_size=12, share=0.5)
    loaded = [batch.tolist() for batch in DataLoader(torch.arange(2 * IMAGES), batch_sampler=batches)]  # type: ignore[arg-type]
    assert loaded == list(batches)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 1}, "batch_size must be from 2 to the number of images, 60, got 1"),
        ({"batch_size": 61}, "batch_size must be from 2 to the number of images, 60, got 61"),
        ({"batch_size": 8, "share": 1.0}, r"share must be in \[0, 1\), got 1.0"),
        ({"batch_size": 8, "share": -0.1}, r"share must be in \[0, 1\), got -0.1"),
        ({"batch_size": 8, "seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HardNegativeBatchSampler(ring(), **given)  # type: ignore[arg-type]
