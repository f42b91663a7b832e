"""The reference against the formulae evaluated one number at a time, and the rules that formulae leave open."""

import math

import pytest
import torch
from losses import OBJECTIVES, ONLINE, by_hand, make_operands

from aoq_ext import functional, reference

SCORES = [[0.9, 0.75, -0.2], [0.1, 0.6, 0.65], [0.85, 0.3, 0.5]]
A, B, C, D = [0.8, 0.7, 0.2], [0.95, 0.1, 0.55], [0.4, 0.65, 0.9], [0.91, -0.3, 0.1]


def score_loss(scores=SCORES, a=A, b=B, c=C, d=D, groups=None, form=reference.adaptive_quintuplet_score_loss, **kwargs):
    tensors = [torch.tensor(t, dtype=torch.float64) for t in (scores, a, b, c, d)]
    group_ids = None if groups is None else torch.tensor(groups)
    return form(*tensors, group_ids, **kwargs)


def test_a_loss_worked_out_on_paper():
    # Pair 0: p = 0.9, n = 0.75, m = 0.85; w = 1.5 − (0.8 − 0.75)/0.3 = 4/3, v = 1.5 − (0.95 − 0.85)/0.3 = 7/6
    # L_0 = 4/3·0.05 + 7/6·0.15 + 0 + 0.05 + 0 + 0.01
    expected = 4 / 3 * 0.05 + 7 / 6 * 0.15 + 0.05 + 0.01
    assert score_loss(reduction="none")[0].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("online", ONLINE)
@pytest.mark.parametrize("groups", [None, [0, 1, 0], [5, 5, 5]])
def test_formulae(objective, online, groups):
    result = score_loss(groups=groups, objective=objective, online=online, reduction="none")
    expected = by_hand(SCORES, A, B, C, D, groups, objective=objective, online=online)
    assert result.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("form", [reference.adaptive_quintuplet_score_loss, functional.adaptive_quintuplet_score_loss])
def test_reductions(form):
    each = score_loss(reduction="none", form=form)
    assert score_loss(reduction="sum", form=form).item() == pytest.approx(each.sum().item())
    assert score_loss(reduction="mean", form=form).item() == pytest.approx(each.mean().item())


def test_embedding_form_is_the_score_form_of_its_similarities():
    x, y, xt, yt, xh, yh = make_operands(9, 5)
    scores = [x @ y.T, (x * yt).sum(1), (xt * y).sum(1), (xt * yt).sum(1), (xh * yh).sum(1)]
    expected = reference.adaptive_quintuplet_score_loss(*scores)
    assert reference.adaptive_quintuplet_loss(x, y, xt, yt, xh, yh).item() == pytest.approx(expected.item())


def test_order_similarity():
    x, y = torch.tensor([[1.0, 5.0]]), torch.tensor([[4.0, 1.0]])  # max(0, y − x) = (3, 0)
    loss = reference.adaptive_quintuplet_loss(
        x, y, x, y, x, y, similarity="order", margin_offline=0.5, objective="offline_quintuplet"
    )
    assert loss.item() == pytest.approx(4 * 0.5)  # every offline similarity is −3 = p


def test_weights_are_neither_detached_nor_clamped():
    a = torch.tensor(A, dtype=torch.float64)
    a[0] = 1.4  # gap 1.4 − 0.75 exceeds αβ = 0.45: w_0 < 0
    losses = [score_loss(a=a.tolist(), reduction="none", clamp_weight=clamp)[0].item() for clamp in (False, True)]
    weight = 1.5 - (1.4 - 0.75) / 0.3
    assert weight < 0
    assert losses[0] - losses[1] == pytest.approx(weight * 0.05)
    leaf = torch.tensor(A, dtype=torch.float64, requires_grad=True)
    tensors = [torch.tensor(t, dtype=torch.float64) for t in (SCORES, B, C, D)]
    slopes = {}
    for detach in (False, True):
        loss = reference.adaptive_quintuplet_score_loss(tensors[0], leaf, *tensors[1:], detach_weight=detach)
        (slopes[detach],) = torch.autograd.grad(loss, leaf)
    assert slopes[True][0] == 0  # a_0 < p_0, so only the weight depends on a_0
    assert slopes[False][0].item() == pytest.approx(-0.05 / 0.3)


def test_minus_infinity_masks_a_score():
    masked = [row[:] for row in SCORES]
    masked[0][1] = masked[1][0] = -math.inf
    expected = by_hand(masked, A, B, C, D, [0, 1, 2])
    # pair 0 keeps one candidate in each direction
    assert score_loss(scores=masked, reduction="none").tolist() == pytest.approx(expected)
