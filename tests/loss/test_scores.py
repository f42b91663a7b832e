"""What only the score-matrix form has; loss/test_loss.py runs both forms through the numerics policy."""

import math

import pytest
import torch

from aoq_ext import functional
from aoq_ext._options import LossOptions
from tests.losses import DTYPES, ONLINE, SCORES, make_operands, scores_of
from tests.numerics import check_forward, check_gradients


def make_scores(count, dtype, device):
    return [score.to(dtype).to(device) for score in scores_of(make_operands(count, 16))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("online", ONLINE)
def test_minus_infinity_masks(dtype, online, device):
    """A whole row, a whole column, and single scores of both directions."""
    operands = make_scores(12, dtype, device)
    scores = operands[0]
    positive = scores.diagonal().clone()
    scores[0] = scores[:, 7] = scores[3, 5] = scores[5, 3] = -math.inf
    scores.diagonal().copy_(positive)
    check_forward(SCORES, operands, online=online, reduction="none")
    check_gradients(SCORES, operands, online=online)


def test_nan_propagates_to_the_anchors_it_is_a_negative_of(device):
    operands = make_scores(12, torch.float32, device)
    operands[0][3, 5] = math.nan
    each = functional.adaptive_quintuplet_score_loss(*operands, reduction="none")
    assert each.isnan().nonzero().flatten().tolist() == [3, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("online", ONLINE)
def test_opcheck(dtype, online, device):
    operands = [operand.requires_grad_() for operand in make_scores(6, dtype, device)]
    opt = LossOptions.create(online=online)
    arguments = (*operands, torch.arange(6, device=device) // 2, *opt.lists())
    torch.library.opcheck(torch.ops.aoq.quintuplet_score_forward, arguments)
    with torch.no_grad():
        loss, *saved = torch.ops.aoq.quintuplet_score_forward(*arguments)
    backward = (torch.ones_like(loss), operands[0].detach(), None, *saved, *opt.lists(), 0b10101)
    torch.library.opcheck(torch.ops.aoq.quintuplet_score_backward, backward)


def test_double_backward_is_refused_and_compile_works(device):
    leaves = [operand.requires_grad_() for operand in make_scores(5, torch.float64, device)]
    loss = functional.adaptive_quintuplet_score_loss(*leaves)
    grads = torch.autograd.grad(loss, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grads[0].sum().backward()
    compiled = torch.compile(functional.adaptive_quintuplet_score_loss, fullgraph=True, backend="aot_eager")
    compiled(*leaves).backward()
    torch.testing.assert_close(leaves[0].grad, grads[0].detach())
