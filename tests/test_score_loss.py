"""The score-matrix form of the loss: the fused operator against the reference, and its edges."""

import itertools
import math

import pytest
import torch
from losses import HALVES, OBJECTIVES, ONLINE, REDUCTIONS, error, run

from aoq_ext import functional, reference
from aoq_ext._options import LossOptions


def make_scores(count, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = 0.3 * torch.randn(count, count, dtype=torch.float64, generator=generator)
    scores += 0.4 * torch.eye(count)
    columns = [0.3 + 0.3 * torch.randn(count, dtype=torch.float64, generator=generator) for _ in range(4)]
    return [value.to(dtype) for value in (scores, *columns)]


def fused(operands, *arguments, **options):
    return run(functional.adaptive_quintuplet_score_loss, operands, *arguments, **options)


def oracle(operands, *arguments, **options):
    return run(reference.adaptive_quintuplet_score_loss, operands, *arguments, **options)


@pytest.mark.parametrize(("objective", "online"), list(itertools.product(OBJECTIVES, ONLINE)))
def test_every_option_equals_the_reference(objective, online):
    generator = torch.Generator().manual_seed(1)
    for count in (0, 1, 2, 7, 300):
        operands = make_scores(count)
        groups = torch.randint(0, max(count // 2, 1), (count,), generator=generator)
        for group_ids, reduction in itertools.product((None, groups), REDUCTIONS):
            for flags in ({}, {"detach_weight": True}, {"clamp_weight": True}):
                options = {"objective": objective, "online": online, "reduction": reduction, **flags}
                ours, theirs = fused(operands, group_ids, **options), oracle(operands, group_ids, **options)
                for result, truth in zip(ours, theirs):
                    torch.testing.assert_close(result, truth, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("objective", "online"), list(itertools.product(OBJECTIVES, ONLINE)))
def test_gradcheck(objective, online):
    operands = [operand.requires_grad_() for operand in make_scores(5)]

    def loss(*leaves):
        return functional.adaptive_quintuplet_score_loss(
            *leaves, torch.tensor([0, 1, 2, 3, 0]), objective=objective, online=online, reduction="none"
        )

    assert torch.autograd.gradcheck(loss, operands)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("online", ONLINE)
def test_precision(dtype, online):
    operands = make_scores(300, dtype)
    truth = oracle([operand.double() for operand in operands], online=online)
    ours, theirs = fused(operands, online=online), oracle(operands, online=online)
    assert ours[0].dtype == torch.float32
    assert error(ours[0], truth[0]) <= 2 * error(theirs[0], truth[0]) + 1e-6
    for result, peer, exact in zip(ours[1:], theirs[1:], truth[1:]):
        assert result.dtype == dtype
        assert error(result, exact) <= 3 * error(peer, exact) + torch.finfo(dtype).eps


@pytest.mark.parametrize("online", ONLINE)
def test_more_than_one_tile_transposed_and_strided(online):
    operands = make_scores(2100)
    expected = oracle(operands, online=online)
    layouts = ([operands[0].T.contiguous().T, *operands[1:]], [operands[0].repeat(1, 2)[:, :2100], *operands[1:]])
    for layout in (operands, *layouts):
        for result, truth in zip(fused(layout, online=online), expected):
            torch.testing.assert_close(result, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("online", ["hardest", "all"])
def test_minus_infinity_masks(online):
    operands = make_scores(12)
    operands[0][0, 1:] = -math.inf
    operands[0][3, 5] = operands[0][5, 3] = -math.inf
    for result, truth in zip(fused(operands, online=online), oracle(operands, online=online)):
        torch.testing.assert_close(result, truth)


def test_nan_propagates():
    operands = make_scores(12, torch.float32)
    operands[0][3, 5] = math.nan
    each = functional.adaptive_quintuplet_score_loss(*operands, reduction="none")
    assert each.isnan().nonzero().flatten().tolist() == [3, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("online", ONLINE)
def test_opcheck(dtype, online):
    operands = [operand.requires_grad_() for operand in make_scores(6, dtype)]
    opt = LossOptions.create(online=online)
    codes = (int(opt.objective), int(opt.online), int(opt.reduction), False, False)
    arguments = (*operands, torch.arange(6) // 2, 0.2, 0.0, 0.3, 1.5, *codes)
    torch.library.opcheck(torch.ops.aoq.quintuplet_score_forward, arguments)
    with torch.no_grad():
        loss, *saved = torch.ops.aoq.quintuplet_score_forward(*arguments)
    backward = (torch.ones_like(loss), operands[0].detach(), None, *saved, 0.2, int(opt.online), 0, 0b10101)
    torch.library.opcheck(torch.ops.aoq.quintuplet_score_backward, backward)


def test_double_backward_is_refused_and_compile_works():
    leaves = [operand.requires_grad_() for operand in make_scores(5)]
    loss = functional.adaptive_quintuplet_score_loss(*leaves)
    grads = torch.autograd.grad(loss, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grads[0].sum().backward()
    compiled = torch.compile(functional.adaptive_quintuplet_score_loss, fullgraph=True, backend="aot_eager")
    compiled(*leaves).backward()
    torch.testing.assert_close(leaves[0].grad, grads[0].detach())
