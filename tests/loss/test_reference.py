"""The reference against the formulae evaluated one number at a time, and the rules that formulae leave open."""

import math

import pytest
import torch

from aoq_ext import reference
from tests.losses import EMBEDDINGS, OBJECTIVES, ONLINE, SCORES, by_hand, run

PLAIN = [[0.9, 0.75, -0.2], [0.1, 0.6, 0.65], [0.85, 0.3, 0.5]]
A, B, C, D = [0.8, 0.7, 0.2], [0.95, 0.1, 0.55], [0.4, 0.65, 0.9], [0.91, -0.3, 0.1]


def score_loss(a=A, **options):
    tensors = [torch.tensor(t, dtype=torch.float64) for t in (PLAIN, a, B, C, D)]
    return reference.adaptive_quintuplet_score_loss(*tensors, **options)


def test_a_loss_worked_out_on_paper():
    # Pair 0: p = 0.9, n = 0.75, m = 0.85; w = 1.5 − (0.8 − 0.75)/0.3 = 4/3, v = 1.5 − (0.95 − 0.85)/0.3 = 7/6
    # L_0 = 4/3·0.05 + 7/6·0.15 + 0 + 0.05 + 0 + 0.01
    expected = 4 / 3 * 0.05 + 7 / 6 * 0.15 + 0.05 + 0.01
    assert score_loss(reduction="none")[0].item() == pytest.approx(expected, abs=1e-12)


TABLES = {  # scores, groups; with the first of A, B, C, D, repeated as needed
    "plain": (PLAIN, None),
    "groups": (PLAIN, [0, 1, 0]),
    "no negatives": (PLAIN, [5, 5, 5]),
    "one pair": ([[0.4]], None),
    "ties": ([[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.25, 0.25], [0.5, 0.5, 0.75, 0.5], [0.0, 0.5, 0.0, 1.0]], None),
    "ties and groups": ([[0.5, 0.75, 0.75], [0.5, 0.5, 0.25], [0.5, 0.5, 0.5]], [1, 2, 2]),
    "nothing below a positive": ([[-0.5, 0.75, 0.25], [-0.5, 0.6, 0.65], [0.85, 0.7, 0.5]], None),
    "masked": ([[0.9, -math.inf, -math.inf], [0.1, 0.6, 0.65], [-math.inf, 0.3, 0.5]], None),  # no text for image 0
}


def embed(scores, a, b, c, d):
    """Embeddings of exactly these scores: text j picks entry j of an image."""
    count = len(scores)
    a, b, c, d = (score[:, None] for score in (a, b, c, d))
    zeros, zero, one = scores.new_zeros(count, count), torch.zeros_like(a), torch.ones_like(a)
    rows = (
        (scores, one, zero, zero),
        (torch.eye(count).to(scores), zero, one, zero),
        (zeros, zero, b, one),
        (zeros, a, zero, c),
        (zeros, d, zero, zero),
        (zeros, one, zero, zero),
    )
    return [torch.cat(row, dim=1) for row in rows]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("online", ONLINE)
@pytest.mark.parametrize("table", TABLES)
def test_formulae(table, online, objective, device):
    """The reference and the fused operator, against every pair's loss computed one number at a time."""
    scores, groups = TABLES[table]
    offline = [(column * 2)[: len(scores)] for column in (A, B, C, D)]
    expected = by_hand(scores, *offline, groups, objective=objective, online=online)
    operands = [torch.tensor(values, dtype=torch.float64, device=device) for values in (scores, *offline)]
    group_ids = None if groups is None else torch.tensor(groups, device=device)
    given = {SCORES: operands}
    if operands[0].isfinite().all():  # no embeddings score −∞
        given[EMBEDDINGS] = embed(*operands)
    for form, values in given.items():
        for loss in (form.reference, form.fused):
            result = loss(*values, group_ids, objective=objective, online=online, reduction="none")
            assert result.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("online", ONLINE)
def test_a_hinge_at_exactly_zero_is_inactive(online, device):
    scores = torch.tensor([[1.0, 0.5], [0.75, 1.0]], dtype=torch.float64, device=device)  # 0.25 + 0.75 − 1 = 0
    for loss in (SCORES.reference, SCORES.fused):
        value, gradient = run(loss, [scores], objective="online_triplet", online=online, margin_online=0.25)
        assert value == 0
        assert (gradient == 0).all()


@pytest.mark.parametrize("loss", [SCORES.reference, SCORES.fused])
def test_nan_reaches_the_loss(loss, device):
    scores = torch.tensor(PLAIN, device=device)
    scores[0, 2] = math.nan
    for online in ONLINE:
        each = loss(scores, objective="online_triplet", online=online, reduction="none")
        assert each.isnan().tolist() == [True, False, True]


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
    tensors = [torch.tensor(t, dtype=torch.float64) for t in (PLAIN, B, C, D)]
    slopes = {}
    for detach in (False, True):
        loss = reference.adaptive_quintuplet_score_loss(tensors[0], leaf, *tensors[1:], detach_weight=detach)
        (slopes[detach],) = torch.autograd.grad(loss, leaf)
    assert slopes[True][0] == 0  # a_0 < p_0, so only the weight depends on a_0
    assert slopes[False][0].item() == pytest.approx(-0.05 / 0.3)
