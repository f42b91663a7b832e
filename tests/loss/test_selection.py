"""hardest_negatives on every case of the numerics policy, and its edges."""

import math

import pytest
import torch

import aoq_ext
from aoq_ext import selection
from tests.losses import EMBEDDINGS, HALVES, make_operands, on_the_cpu
from tests.numerics import CASES, error, judge_chosen


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_a_plain_search(case, device):
    for dtype in case.dtypes:
        (image, text, *_), groups = case.inputs(EMBEDDINGS, dtype, device)
        found = aoq_ext.hardest_negatives(image, text, groups)
        if not len(image):
            continue
        wide, wide_groups = on_the_cpu((image, text), groups)
        scores = wide[0] @ wide[1].T
        chosen = (found.text_index, found.image_index)
        judge_chosen(chosen, scores, wide_groups, case.exact or dtype == torch.float64, {})
        for index, score, direction in zip(chosen, (found.text_score, found.image_score), (scores, scores.T)):
            exists = index.cpu() >= 0
            assert torch.equal(score.cpu() == -math.inf, ~exists)
            exact = direction[torch.arange(len(index)), index.cpu()]
            assert torch.equal(score.isnan().cpu(), exact.isnan() & exists)
            assert error(score, exact.where(exists, math.inf)) <= (1e-12 if dtype == torch.float64 else 1e-6)


def test_the_fallback_finds_the_same(device):
    """What runs on a device without a kernel."""
    image, text = make_operands(257, 12, device=device)[:2]
    for groups in (None, torch.arange(257, device=device) // 3):
        found = aoq_ext.hardest_negatives(image, text, groups)
        for value, expected in zip(found, selection._plain(image, text, groups)):
            torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("count", [0, 3])
def test_no_negative_is_minus_one_and_minus_infinity(count, device):
    image, text = make_operands(count, 4, device=device)[:2]
    found = aoq_ext.hardest_negatives(image, text, torch.zeros(count, dtype=torch.int64, device=device))
    assert found.text_index.tolist() == found.image_index.tolist() == [-1] * count
    assert found.text_score.tolist() == found.image_score.tolist() == [-math.inf] * count


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_scores_have_the_dtype_they_were_computed_in(dtype, device):
    found = aoq_ext.hardest_negatives(*make_operands(5, 4, dtype=dtype, device=device)[:2])
    assert found.text_score.dtype == found.image_score.dtype == torch.float32


def test_ties_and_nan(device):
    image, text = torch.ones(5, 2, device=device), torch.ones(5, 2, device=device)
    assert aoq_ext.hardest_negatives(image, text).text_index.tolist() == [1, 0, 0, 0, 0]
    text[3, 0] = math.nan
    found = aoq_ext.hardest_negatives(image, text)
    assert found.text_index.tolist() == [3, 3, 3, 0, 3]
    assert math.isnan(found.text_score[0])


def test_opcheck_and_no_gradient(device):
    image, text = (operand.requires_grad_() for operand in make_operands(6, 4, device=device)[:2])
    groups = torch.arange(6, device=device) // 2
    torch.library.opcheck(torch.ops.aoq.hardest_negatives, (image.detach(), text.detach(), groups))
    assert not aoq_ext.hardest_negatives(image, text).text_score.requires_grad


def test_inside_a_triplet_loss(device):
    image, text = make_operands(30, 8, device=device)[:2]
    chosen = aoq_ext.hardest_negatives(image, text)
    positive = (image * text).sum(1)
    text_negative = (image * text[chosen.text_index]).sum(1)
    image_negative = (image[chosen.image_index] * text).sum(1)
    loss = ((0.2 + text_negative - positive).relu() + (0.2 + image_negative - positive).relu()).sum()
    expected = aoq_ext.functional.adaptive_quintuplet_loss(image, text, objective="online_triplet")
    torch.testing.assert_close(loss, expected)


def test_errors_name_the_argument(device):
    image, text = make_operands(3, 4, device=device)[:2]
    with pytest.raises(ValueError, match="text must have the shape of image"):
        aoq_ext.hardest_negatives(image, text[:2])
    with pytest.raises(TypeError, match="group_ids must be an integer tensor"):
        aoq_ext.hardest_negatives(image, text, torch.zeros(3, device=device))
