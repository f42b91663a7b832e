"""hardest_negatives against a plain search."""

import math

import pytest
import torch
from losses import HALVES, make_operands

import aoq_ext
from aoq_ext import selection


@pytest.mark.parametrize("count", [0, 1, 2, 40, 257, 2100])
@pytest.mark.parametrize("grouped", [False, True])
def test_equals_a_plain_search(count, grouped):
    image, text = make_operands(count, 12)[:2]
    groups = torch.arange(count) // 3 if grouped else None
    found = aoq_ext.hardest_negatives(image, text, groups)
    expected = selection._plain(image, text, groups)
    assert torch.equal(found.text_index, expected.text_index)
    assert torch.equal(found.image_index, expected.image_index)
    torch.testing.assert_close(found.text_score, expected.text_score)
    torch.testing.assert_close(found.image_score, expected.image_score)


def test_no_negative_is_minus_one_and_minus_infinity():
    image, text = make_operands(3, 4)[:2]
    found = aoq_ext.hardest_negatives(image, text, torch.zeros(3, dtype=torch.int64))
    assert found.text_index.tolist() == found.image_index.tolist() == [-1] * 3
    assert found.text_score.tolist() == found.image_score.tolist() == [-math.inf] * 3


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_scores_are_not_rounded_to_the_input_dtype(dtype):
    image, text = make_operands(50, 64, dtype=dtype)[:2]
    found = aoq_ext.hardest_negatives(image, text)
    assert found.text_score.dtype == torch.float32
    exact = (image.double() * text[found.text_index].double()).sum(1)
    torch.testing.assert_close(found.text_score.double(), exact, rtol=1e-5, atol=1e-6)


def test_ties_and_nan():
    image, text = torch.ones(5, 2), torch.ones(5, 2)
    assert aoq_ext.hardest_negatives(image, text).text_index.tolist() == [1, 0, 0, 0, 0]
    text[3, 0] = math.nan
    found = aoq_ext.hardest_negatives(image, text)
    assert found.text_index.tolist() == [3, 3, 3, 0, 3]
    assert math.isnan(found.text_score[0])


def test_opcheck_and_no_gradient():
    image, text = (operand.requires_grad_() for operand in make_operands(6, 4)[:2])
    torch.library.opcheck(torch.ops.aoq.hardest_negatives, (image.detach(), text.detach(), torch.arange(6) // 2))
    assert not aoq_ext.hardest_negatives(image, text).text_score.requires_grad


def test_inside_a_triplet_loss():
    image, text = (operand.requires_grad_() for operand in make_operands(30, 8)[:2])
    chosen = aoq_ext.hardest_negatives(image, text)
    positive = (image * text).sum(1)
    text_negative = (image * text[chosen.text_index]).sum(1)
    image_negative = (image[chosen.image_index] * text).sum(1)
    loss = ((0.2 + text_negative - positive).relu() + (0.2 + image_negative - positive).relu()).sum()
    expected = aoq_ext.functional.adaptive_quintuplet_loss(image, text, objective="online_triplet")
    torch.testing.assert_close(loss, expected)


def test_errors_name_the_argument():
    image, text = make_operands(3, 4)[:2]
    with pytest.raises(ValueError, match="text must have the shape of image"):
        aoq_ext.hardest_negatives(image, text[:2])
    with pytest.raises(TypeError, match="group_ids must be an integer tensor"):
        aoq_ext.hardest_negatives(image, text, torch.zeros(3))
