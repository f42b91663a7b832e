"""Integers of whatever type are the same integers; truth values and floats are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import aoq_ext
from aoq_ext._scalars import as_int
from aoq_ext.lists import MinedLists, mine_to_files
from aoq_ext.metrics import ranks_from_scores, retrieval_metrics, retrieval_ranks

UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
OTHERS = [torch.int8, torch.uint8, torch.int16, torch.int32, *UNSIGNED]
IMAGES = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
TEXTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
OWNERS = torch.arange(40) // 5
TOO_LARGE = 2**63 + 5


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", OTHERS)
def test_ids_of_mining_and_metrics(dtype: torch.dtype, kind: str, tmp_path: Any) -> None:
    image_ids, text_ids = (ids.to(dtype) for ids in (torch.arange(8), OWNERS))
    if kind == "numpy":
        image_ids, text_ids = image_ids.numpy(), text_ids.numpy()
    expected = aoq_ext.mine_hard_negatives(IMAGES, TEXTS, 9, torch.arange(8), OWNERS).indices
    assert torch.equal(aoq_ext.mine_hard_negatives(IMAGES, TEXTS, 9, image_ids, text_ids).indices, expected)
    mined = mine_to_files(IMAGES, TEXTS, tmp_path / "lists", 9, image_ids, text_ids)
    assert np.array_equal(mined.indices, expected)
    ranks = retrieval_ranks(IMAGES, TEXTS, image_ids, text_ids)
    assert torch.equal(ranks, retrieval_ranks(IMAGES, TEXTS, torch.arange(8), OWNERS))
    assert retrieval_metrics(IMAGES, TEXTS, text_ids) == retrieval_metrics(IMAGES, TEXTS, OWNERS)


@pytest.mark.parametrize("dtype", OTHERS)
def test_labels_of_mining(dtype: torch.dtype) -> None:
    def mined(dtype: torch.dtype) -> torch.Tensor:
        labels = [((torch.arange(rows) % 4).to(dtype), torch.arange(rows + 1).to(dtype)) for rows in (8, 40)]
        return aoq_ext.mine_hard_negatives(
            IMAGES, TEXTS, 9, anchor_labels=labels[0], candidate_labels=labels[1]
        ).indices

    assert torch.equal(mined(dtype), mined(torch.int64))


@pytest.mark.parametrize("dtype", OTHERS)
def test_group_ids_of_the_loss(dtype: torch.dtype) -> None:
    texts = TEXTS[:8]
    ids = torch.tensor([0, 1, 1, 2, 3, 3, 4, 5])
    same = aoq_ext.hardest_negatives(IMAGES, texts, ids.to(dtype))
    expected = aoq_ext.hardest_negatives(IMAGES, texts, ids)
    assert all(map(torch.equal, same, expected))
    for function in (aoq_ext.functional.adaptive_quintuplet_loss, aoq_ext.reference.adaptive_quintuplet_loss):
        losses = [
            function(IMAGES, texts, group_ids=of_dtype, objective="online_triplet") for of_dtype in (ids, ids.to(dtype))
        ]
        assert torch.equal(*losses)
    module = aoq_ext.AdaptiveQuintupletScoreLoss(objective="online_triplet")
    scores = IMAGES @ texts.T
    assert torch.equal(module(scores, group_ids=ids.to(dtype)), module(scores, group_ids=ids))


def test_group_ids_of_the_loss_are_only_compared() -> None:
    ids = torch.tensor([2**64 - 1, 3, 2**64 - 1, 2**63, 7, 8, 9, 10], dtype=torch.uint64)
    equal = torch.tensor([0, 1, 0, 2, 3, 4, 5, 6])
    found, expected = (aoq_ext.hardest_negatives(IMAGES, TEXTS[:8], group) for group in (ids, equal))
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("dtype", OTHERS)
def test_indices_of_the_sampler(dtype: torch.dtype) -> None:
    texts = aoq_ext.mine_hard_negatives(IMAGES, TEXTS, 9, torch.arange(8), OWNERS, direction="both", k_reverse=4)
    lists = texts.indices, texts.reverse.indices, OWNERS
    image, text = torch.tensor([2, 5]), torch.tensor([11, 27])
    expected = aoq_ext.OfflineNegativeSampler(*lists).draw(image, text, 3)
    sampler = aoq_ext.OfflineNegativeSampler(
        *(part.to(dtype) for part in lists), top_texts=np.int64(300), top_images=np.int16(60), seed=np.int64(0)
    )
    found = sampler.draw(image.to(dtype), text.to(dtype), np.int32(3))
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in vars(expected))
    assert type(sampler.state_dict()["seed"]) is int


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_what_int64_cannot_hold_is_refused(kind: str) -> None:
    ids = torch.from_numpy(np.where(np.arange(40) == 3, np.uint64(TOO_LARGE), np.arange(40).astype(np.uint64)))
    given: Any = ids if kind == "torch" else ids.numpy()
    message = rf"must be at most 2\*\*63 - 1, got (an array with )?{TOO_LARGE}"
    with pytest.raises(ValueError, match=f"candidate_ids {message}"):
        aoq_ext.mine_hard_negatives(IMAGES, TEXTS, 3, torch.arange(8), given)
    with pytest.raises(ValueError, match=f"text_image_index {message}"):
        retrieval_metrics(IMAGES, TEXTS, given)
    with pytest.raises(ValueError, match=f"query_ids {message}"):
        retrieval_ranks(TEXTS, IMAGES, given, torch.arange(8))
    if kind == "torch":
        labels = [(ids[:rows], torch.arange(rows + 1)) for rows in (8, 40)]
        with pytest.raises(ValueError, match=f"values of anchor_labels {message}"):
            aoq_ext.mine_hard_negatives(IMAGES, TEXTS, 3, anchor_labels=labels[0], candidate_labels=labels[1])
        with pytest.raises(ValueError, match=f"text_image_index {message}"):
            aoq_ext.OfflineNegativeSampler(torch.zeros(8, 1).long(), torch.zeros(40, 1).long(), ids)


def test_accepted_dtypes_are_named() -> None:
    wanted = r"\(expected one of int64, int32, int16, int8, uint8, uint16, uint32, uint64\)"
    with pytest.raises(TypeError, match=f"anchor_ids must be an integer tensor, got float32 {wanted}"):
        aoq_ext.mine_hard_negatives(IMAGES, TEXTS, 3, torch.zeros(8), OWNERS)
    with pytest.raises(TypeError, match=f"group_ids must be an integer tensor, got bool {wanted}"):
        aoq_ext.hardest_negatives(IMAGES, TEXTS[:8], torch.zeros(8).bool())


def sampler(**given: Any) -> Any:
    lists = torch.ones(2, 1).long(), torch.tensor([[1], [0]]), torch.arange(2)
    return aoq_ext.OfflineNegativeSampler(lists[0] - torch.arange(2)[:, None], *lists[1:], **given)


RANKS = ranks_from_scores(IMAGES @ TEXTS.T, OWNERS)
ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "k": lambda value: aoq_ext.mine_hard_negatives(IMAGES, TEXTS, value),
    "k_reverse": lambda value: aoq_ext.mine_hard_negatives(IMAGES, TEXTS, 2, direction="both", k_reverse=value),
    "skip": lambda value: aoq_ext.mine_hard_negatives(IMAGES, TEXTS, 2, skip=value),
    "memory_limit": lambda value: aoq_ext.mine_hard_negatives(IMAGES, TEXTS, 2, memory_limit=value * 10**8),
    "folds": lambda value: ranks_from_scores(IMAGES @ TEXTS.T, OWNERS, value).report(value),
    "resamples": lambda value: RANKS.report(value),
    "seed": lambda value: RANKS.bootstrap(3, seed=value),
    "top_texts": lambda value: sampler(top_texts=value),
    "top_images": lambda value: sampler(top_images=value),
    "step": lambda value: sampler().draw(torch.arange(2), torch.arange(2), value),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_integer_arguments(name: str) -> None:
    for kind in (int, np.int64, np.uint8, np.array, torch.tensor):
        if not (name == "memory_limit" and kind is np.uint8):
            ARGUMENTS[name](kind(4))
    wrong: tuple[Any, ...] = (True, np.True_, 4.0, np.float32(4), "4", None, np.array([4, 5]), torch.tensor(4.0))
    if name == "memory_limit":
        wrong = (4.5, np.float32(4))
    elif name in ("k_reverse", "step"):
        wrong = tuple(value for value in wrong if value is not None)
    for value in wrong:
        with pytest.raises(TypeError, match=f"{name} must be an int, got "):
            ARGUMENTS[name](value)


def test_results_hold_plain_integers(tmp_path: Any) -> None:
    report = ranks_from_scores(IMAGES @ TEXTS.T, OWNERS, np.int64(4)).report(np.int64(5), np.float32(0.5), np.int64(6))
    assert report["bootstrap"] == {"resamples": 5, "level": 0.5, "seed": 6}
    assert [type(value) for value in report["bootstrap"].values()] == [int, float, int]
    numbers = {"shard_rows": np.int64(3), "memory_limit": np.int64(10**9), "skip": np.int64(1)}
    mine_to_files(IMAGES, TEXTS, tmp_path, np.int64(4), **numbers)
    assert np.array_equal(
        MinedLists.load(tmp_path).indices, aoq_ext.mine_hard_negatives(IMAGES, TEXTS, 4, skip=1).indices
    )


@pytest.mark.parametrize("value", [True, np.False_, torch.tensor(True), np.array([1]), 1.0, "1", None])
def test_as_int_refuses(value: object) -> None:
    with pytest.raises(TypeError, match=f"n must be an int, got {type(value).__name__}"):
        as_int("n", value)


def test_training_and_data() -> None:
    pytest.importorskip("jsonargparse")
    from aoq_ext.data import Pictures, load_precomputed
    from aoq_ext.training import TrainConfig

    config = TrainConfig(epochs=np.int64(3), seed=np.uint8(4), threads=np.int32(1))
    assert [type(value) for value in (config.epochs, config.seed, config.threads)] == [int] * 3
    for wrong in (2.5, True):
        with pytest.raises(TypeError, match="batch_size must be an int"):
            TrainConfig(batch_size=wrong)
        with pytest.raises(TypeError, match="captions_per_image must be an int"):
            load_precomputed("train", captions_per_image=wrong)
        with pytest.raises(TypeError, match="size must be an int"):
            Pictures([], size=wrong)
    assert Pictures([], size=np.int64(8), threads=np.int64(2)).shape == (0, 3, 8, 8)
