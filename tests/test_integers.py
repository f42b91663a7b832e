"""Integers of every type: where they can be exact they are taken, and where not, said so."""

import numpy as np
import pytest
import torch

import aoq_ext
from aoq_ext import functional, metrics, mine_hard_negatives, reference

UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64]
ROWS = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
OTHERS = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=1)
IDS = torch.tensor([0, 0, 1, 1, 2, 200])
TOO_LARGE = torch.tensor([1, 2, 3, 4, 5, -6]).view(torch.uint64)


@pytest.mark.parametrize("dtype", UNSIGNED)
def test_unsigned_ids_mean_what_signed_ones_do(dtype: torch.dtype) -> None:
    ids = IDS.to(dtype)
    for loss in (functional.adaptive_quintuplet_loss, reference.adaptive_quintuplet_loss):
        expected = loss(ROWS, OTHERS, group_ids=IDS, objective="online_triplet")
        assert torch.equal(loss(ROWS, OTHERS, group_ids=ids, objective="online_triplet"), expected)
    for found, expected in zip(
        aoq_ext.hardest_negatives(ROWS, OTHERS, ids), aoq_ext.hardest_negatives(ROWS, OTHERS, IDS), strict=True
    ):
        assert torch.equal(found, expected)
    mined = mine_hard_negatives(ROWS, OTHERS, 3, IDS, IDS)
    assert torch.equal(mine_hard_negatives(ROWS, OTHERS, 3, ids, ids).indices, mined.indices)
    assert torch.equal(mine_hard_negatives(ROWS, OTHERS, 3, ids.numpy(), ids.numpy()).indices, mined.indices)
    labels = IDS, torch.arange(7)
    unsigned = ids, torch.arange(7).to(dtype)
    found = mine_hard_negatives(ROWS, OTHERS, 3, anchor_labels=unsigned, candidate_labels=labels)
    assert torch.equal(found.indices, mined.indices)
    owners = torch.arange(6)
    assert metrics.retrieval_metrics(ROWS, OTHERS, owners.to(dtype)) == metrics.retrieval_metrics(ROWS, OTHERS, owners)


def test_group_ids_beyond_int64_are_told_apart() -> None:
    ids = torch.tensor([-1, -1, -2, 5, 5, -3]).view(torch.uint64)
    expected = functional.adaptive_quintuplet_loss(
        ROWS, OTHERS, group_ids=ids.view(torch.int64), objective="online_triplet"
    )
    for loss in (functional.adaptive_quintuplet_loss, reference.adaptive_quintuplet_loss):
        assert loss(ROWS, OTHERS, group_ids=ids, objective="online_triplet") == pytest.approx(expected.item())


def test_numbers_beyond_int64_are_named() -> None:
    with pytest.raises(ValueError, match=r"anchor_ids must be below 2\*\*63, got 18446744073709551610"):
        mine_hard_negatives(ROWS, OTHERS, 3, TOO_LARGE, TOO_LARGE)
    with pytest.raises(ValueError, match=r"text_image_index must be below 2\*\*63, got 18446744073709551610"):
        metrics.retrieval_metrics(ROWS, OTHERS, TOO_LARGE)


@pytest.mark.parametrize("ids", [IDS.float(), IDS.bool()])
def test_other_types_are_refused_with_the_accepted_ones(ids: torch.Tensor) -> None:
    message = "must be an integer tensor, got (float32|bool); accepted are int8 to int64 and uint8 to uint64"
    with pytest.raises(TypeError, match=f"group_ids {message}"):
        functional.adaptive_quintuplet_loss(ROWS, OTHERS, group_ids=ids, objective="online_triplet")
    with pytest.raises(TypeError, match=f"anchor_ids {message}"):
        mine_hard_negatives(ROWS, OTHERS, 3, ids, ids)
    with pytest.raises(TypeError, match=f"text_image_index {message}"):
        metrics.retrieval_metrics(ROWS, OTHERS, ids)


@pytest.mark.parametrize("one", [np.int64, np.int32, np.uint8])
def test_numbers_of_numpy_are_numbers(one: type) -> None:
    owners = torch.arange(6)
    ranks = metrics.ranks_from_embeddings([(ROWS, OTHERS)], owners, folds=one(3))
    assert ranks.metrics() == metrics.retrieval_metrics(ROWS, OTHERS, owners, folds=3)
    assert ranks.bootstrap(resamples=one(5), seed=one(1)) == ranks.bootstrap(resamples=5, seed=1)
    assert torch.equal(mine_hard_negatives(ROWS, OTHERS, one(3)).indices, mine_hard_negatives(ROWS, OTHERS, 3).indices)
    lists = torch.tensor([[1, 2], [0, 2], [0, 1]])

    def sampler(number: type) -> aoq_ext.OfflineNegativeSampler:
        return aoq_ext.OfflineNegativeSampler(
            lists, lists, torch.arange(3), top_texts=number(2), top_images=number(1), seed=number(4)
        )

    drawn = sampler(one).draw(torch.arange(3), torch.arange(3), step=one(2))
    assert torch.equal(drawn.hard_text, sampler(int).draw(torch.arange(3), torch.arange(3), step=2).hard_text)
    with pytest.raises(TypeError, match="folds must be an int, got bool"):
        metrics.retrieval_metrics(ROWS, OTHERS, owners, folds=True)
