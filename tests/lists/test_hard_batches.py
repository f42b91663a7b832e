"""Batches of seeds and of the owners of their mined negatives."""

from __future__ import annotations

import doctest
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import aoq_ext
import aoq_ext.lists.hard_batches as module
from aoq_ext.lists import HardNegativeBatchSampler, OfflineNegativeSampler

IMAGES, CAPTIONS, GROUP = 60, 3, 2
OWN = torch.arange(IMAGES).repeat_interleave(CAPTIONS)  # the image of each text
GROUPS = torch.arange(IMAGES) // GROUP  # of images


def lists(k: int = 6) -> tuple[Tensor, Tensor]:
    """Random texts (N, k) and images (M, k), of other groups than their anchors."""
    generator = torch.Generator().manual_seed(0)

    def rows(anchors: Tensor, candidates: Tensor) -> Tensor:
        random = torch.rand(len(anchors), len(candidates), generator=generator)
        return random.masked_fill(anchors[:, None] == candidates, -1).topk(k, dim=1).indices

    return rows(GROUPS, GROUPS[OWN]), rows(GROUPS[OWN], GROUPS)


def sampler(batch_size: int = 10, **options: Any) -> HardNegativeBatchSampler:
    return HardNegativeBatchSampler(OfflineNegativeSampler(*lists(), OWN), batch_size, **options)


def test_the_example_is_right() -> None:
    assert doctest.testmod(module) == (0, 5)


def test_it_is_where_the_other_sampler_is() -> None:
    assert aoq_ext.HardNegativeBatchSampler is aoq_ext.mining.HardNegativeBatchSampler is HardNegativeBatchSampler


@pytest.mark.parametrize(
    ("share", "owners"), [(0.0, 0), (0.01, 1), (0.2, 2), (0.5, 5), (0.75, 8), (0.9, 9), (0.999, 9)]
)
def test_a_share_of_each_batch_are_owners_of_negatives_of_its_seeds(share: float, owners: int) -> None:
    hard_text, hard_image = lists()
    batches = sampler(share=share)
    assert (batches.seeds, batches.owners) == (10 - owners, owners)
    kinds: Counter[str] = Counter()
    for step in range(60):
        batch = batches.batch(step)
        assert len(batch) == 10
        assert len(set(OWN[batch].tolist())) == 10  # no pair twice, and no image
        seeds, rest = batch[: batches.seeds], batch[batches.seeds :]
        for place, text in enumerate(rest):
            seed, image = seeds[place % len(seeds)], int(OWN[text])
            is_text, is_image = text in hard_text[OWN[seed]], image in hard_image[seed]
            kinds["text" if is_text else "image" if is_image else "any"] += 1
            if is_text or is_image:
                assert GROUPS[image] != GROUPS[OWN[seed]]
    total = sum(kinds.values())
    assert total == 60 * owners
    if total >= 120:
        assert min(kinds["text"], kinds["image"]) > total / 3
        assert kinds["any"] < total / (20 if share < 0.9 else 10)  # 9 owners of one seed, from lists of 6 and 6


def test_every_image_is_a_seed_once_an_epoch_and_every_pair_equally_often() -> None:
    batches = sampler(share=0.4)  # 6 seeds a batch, 10 batches
    assert len(batches) == 10
    seen: Counter[int] = Counter()
    orders = set()
    for epoch in range(2 * CAPTIONS):
        batches.set_epoch(epoch)
        seeds = [text for batch in batches for text in batch[: batches.seeds]]
        assert sorted(OWN[seeds].tolist()) == list(range(IMAGES))
        seen.update(seeds)
        orders.add(tuple(OWN[seeds].tolist()))
    assert seen == dict.fromkeys(range(IMAGES * CAPTIONS), 2)
    assert len(orders) == 2 * CAPTIONS


def test_images_left_over_sit_an_epoch_out() -> None:
    batches = sampler(batch_size=16, share=0.5)  # 8 seeds
    assert len(batches) == 7
    assert [len(batch) for batch in batches] == [16] * 7


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    batches = sampler(seed=5)
    batches.set_epoch(2)
    epoch = list(batches)
    assert list(batches) == epoch
    assert [sampler(seed=5).batch(2 * len(epoch) + index) for index in reversed(range(len(epoch)))] == epoch[::-1]
    assert pickle.loads(pickle.dumps(batches)).batch(7) == batches.batch(7)
    for other in (sampler(seed=6), sampler(seed=5)):
        assert list(other) != epoch
    batches.set_epoch(2, first_batch=4)
    assert len(batches) == len(epoch) - 4
    assert list(batches) == epoch[4:]
    batches.set_epoch(2, first_batch=len(epoch))
    assert list(batches) == []


def test_the_seed_and_the_step_of_the_lists_count_for_nothing() -> None:
    negatives = OfflineNegativeSampler(*lists(), OWN, seed=9)
    negatives.draw(OWN[:3], torch.arange(3))
    assert list(HardNegativeBatchSampler(negatives, 10)) == list(sampler())


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_batch_of_all_images_has_each_of_them(share: float) -> None:
    """Draws run out; any pair takes their places."""
    for batch in sampler(batch_size=IMAGES, share=share):
        assert sorted(OWN[batch].tolist()) == list(range(IMAGES))


def test_images_may_have_any_number_of_texts_in_any_order() -> None:
    own = torch.tensor([1, 0, 2, 1, 1])
    hard_text = torch.tensor([[0, -1], [1, 2], [1, -1]])
    hard_image = torch.tensor([[0, -1], [1, -1], [1, 0], [2, -1], [0, 2]], dtype=torch.int32)
    batches = HardNegativeBatchSampler(OfflineNegativeSampler(hard_text, hard_image, own), 2)
    for epoch in range(6):
        batches.set_epoch(epoch)
        epoch_of_seeds = [batch[0] for batch in batches]
        assert sorted(own[epoch_of_seeds].tolist()) == [0, 1, 2]
        assert all(own[first] != own[second] for first, second in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_these_batches(workers: int) -> None:
    batches = sampler(share=0.3, seed=1)
    loader = DataLoader(TensorDataset(torch.arange(IMAGES * CAPTIONS), OWN), batch_sampler=batches, num_workers=workers)
    for epoch in range(2):
        batches.set_epoch(epoch)
        read = [(text.tolist(), image.tolist()) for text, image in loader]
        assert read == [(batch, OWN[batch].tolist()) for batch in batches]
        assert len(read) == len(loader)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"share": 1.0}, ValueError, r"share must be in \[0, 1\), got 1.0"),
        ({"share": -0.1}, ValueError, r"share must be in \[0, 1\), got -0.1"),
        ({"share": float("nan")}, ValueError, "share must be finite, got nan"),
        ({"share": "half"}, TypeError, "share must be a float, got str"),
        ({"batch_size": 1}, ValueError, r"batch_size must be from 2 to .*, got 1"),
        ({"batch_size": 61}, ValueError, "batch_size must be at most 60, the number of images, got 61"),
        ({"batch_size": 2.5}, TypeError, "batch_size"),
        ({"seed": -1}, ValueError, "seed must be from 0 to .*, got -1"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sampler(**options)


def test_what_cannot_be_drawn_from_and_steps_that_cannot_be_are_refused() -> None:
    with pytest.raises(TypeError, match="negatives must be an OfflineNegativeSampler, got tuple"):
        HardNegativeBatchSampler(lists(), 10)  # type: ignore[arg-type]
    batches = sampler()
    for call, message in (
        (lambda: batches.set_epoch(-1), "epoch must be from 0 to"),
        (lambda: batches.set_epoch(0, 13), "first_batch must be at most 12, got 13"),
        (lambda: batches.batch(-1), "step must be from 0 to"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
