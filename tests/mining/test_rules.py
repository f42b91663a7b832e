"""Which candidates may be negatives, in both directions, against scores that are written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from aoq_ext.mining import mine_hard_negatives, tile
from aoq_ext.mining.rules import MiningRules
from tests.mining.test_in_memory import brute_force, defined_scores, unit_rows, with_near_ties


@pytest.fixture(params=["fused", "plain"], autouse=True)
def path(request, monkeypatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(tile, "has_kernel", lambda *_: False)
    return request.param


def pick(scores: Tensor, allowed: Tensor, k: int, skip: int = 0) -> tuple[Tensor, Tensor]:
    """Ranks skip + 1 to skip + k of every row of scores (n, m), among what is allowed."""
    masked = torch.nn.functional.pad(scores.masked_fill(~allowed, -torch.inf), (0, k + skip), value=-torch.inf)
    values, indices = masked.sort(dim=1, descending=True, stable=True)
    values, indices = values[:, skip : skip + k], indices[:, skip : skip + k]
    return indices.masked_fill(values == -torch.inf, -1), values


def check(anchors, candidates, k, k_reverse, ids, allowed, skip=0, **options) -> None:
    """``allowed``: of the anchors' lists and of the candidates', both (n, m)."""
    scores = defined_scores(anchors, candidates)
    result = mine_hard_negatives(
        anchors, candidates, k, *ids, direction="both", k_reverse=k_reverse, skip=skip, **options
    )
    for found, expected in (
        (result, pick(scores, allowed[0], k, skip)),
        (result.reverse, pick(scores.T, allowed[1].T, k_reverse, skip)),
    ):
        assert torch.equal(found.indices, expected[0])
        assert torch.equal(found.scores, expected[1])


ANCHORS, CANDIDATES = unit_rows(40, 24, 1), with_near_ties(300, 24, 2)
IDS = (torch.arange(40), torch.arange(300) % 50)  # every anchor has six of its own, some candidates none
STRANGERS = IDS[0][:, None] != IDS[1][None, :]
SCORES = defined_scores(ANCHORS, CANDIDATES)
P_ROW = SCORES.masked_fill(STRANGERS, -torch.inf).amax(dim=1, keepdim=True)
P_COLUMN = SCORES.masked_fill(STRANGERS, -torch.inf).amax(dim=0, keepdim=True)


def bound(p: Tensor, cap: Tensor) -> Tensor:
    """No bound where there is no p."""
    return torch.where(p == -torch.inf, math.inf, cap)


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize(("k", "k_reverse"), [(30, 12), (1, 1), (300, 40)])
def test_both_directions(k, k_reverse, skip):
    check(ANCHORS, CANDIDATES, k, k_reverse, IDS, (STRANGERS, STRANGERS), skip)
    everyone = torch.ones_like(STRANGERS)
    check(ANCHORS, CANDIDATES, k, k_reverse, (None, None), (everyone, everyone), skip)


def test_each_direction_is_that_of_one_alone():
    both = mine_hard_negatives(ANCHORS, CANDIDATES, 20, *IDS, direction="both")
    assert torch.equal(both.indices, mine_hard_negatives(ANCHORS, CANDIDATES, 20, *IDS).indices)
    other = mine_hard_negatives(CANDIDATES, ANCHORS, 20, IDS[1], IDS[0])
    assert torch.equal(both.reverse.indices, other.indices)
    assert torch.equal(both.reverse.scores, other.scores)
    assert both.reverse.reverse is None and other.reverse is None
    assert "reverse=HardNegatives(anchors=300" in repr(both)


@pytest.mark.parametrize("margin", [0.1, 0.0, -0.2])
def test_absolute_margin(margin):
    """s ≤ p − margin, in float64."""
    row = bound(P_ROW, P_ROW.double() - margin)
    column = bound(P_COLUMN, P_COLUMN.double() - margin)
    allowed = (STRANGERS & (SCORES.double() <= row), STRANGERS & (SCORES.double() <= column))
    check(ANCHORS, CANDIDATES, 25, 10, IDS, allowed, margin=margin)


@pytest.mark.parametrize("relative", [0.0, 0.05, 0.5, 2.0])
def test_relative_margin_is_below_a_negative_positive(relative):
    """s ≤ p − r·|p|: with p = −0.5 and r = 0.1 that is −0.55, not −0.45."""
    assert bool((P_ROW < 0).any()) and bool((P_COLUMN < 0).any())
    row = bound(P_ROW, P_ROW.double() - relative * P_ROW.double().abs())
    column = bound(P_COLUMN, P_COLUMN.double() - relative * P_COLUMN.double().abs())
    allowed = (STRANGERS & (SCORES.double() <= row), STRANGERS & (SCORES.double() <= column))
    check(ANCHORS, CANDIDATES, 25, 10, IDS, allowed, relative_margin=relative)


@pytest.mark.parametrize("cap", [0.2, 0.0, -0.3, float(SCORES[3, 5])])
def test_score_cap_includes_the_cap(cap):
    allowed = STRANGERS & (SCORES.double() <= cap)
    check(ANCHORS, CANDIDATES, 25, 10, IDS, (allowed, allowed), max_score=cap)
    below = SCORES.double() <= cap
    check(ANCHORS, CANDIDATES, 25, 10, (None, None), (below, below), max_score=cap)


def test_all_rules_together_never_starve():
    row = bound(P_ROW, (P_ROW.double() - 0.05).minimum(P_ROW.double() - 0.1 * P_ROW.double().abs())).clamp(max=0.4)
    column = bound(P_COLUMN, (P_COLUMN.double() - 0.05).minimum(P_COLUMN.double() - 0.1 * P_COLUMN.double().abs()))
    allowed = (STRANGERS & (SCORES.double() <= row), STRANGERS & (SCORES.double() <= column.clamp(max=0.4)))
    check(ANCHORS, CANDIDATES, 25, 10, IDS, allowed, skip=2, margin=0.05, relative_margin=0.1, max_score=0.4)


def test_labels_exclude_besides_ids():
    generator = np.random.default_rng(3)
    labels = [
        [sorted(generator.choice(60, generator.integers(0, 4), replace=False).tolist()) for _ in range(n)]
        for n in (40, 300)
    ]
    shared = torch.tensor([[bool(set(x) & set(y)) for y in labels[1]] for x in labels[0]])
    as_tensors = [
        (torch.tensor([v for row in side for v in row]), torch.tensor([0, *map(len, side)]).cumsum(0))
        for side in labels
    ]
    shuffled = [[row[::-1] for row in side] for side in labels]
    for own, other in (labels, as_tensors, shuffled):
        allowed = STRANGERS & ~shared
        check(ANCHORS, CANDIDATES, 300, 40, IDS, (allowed, allowed), anchor_labels=own, candidate_labels=other)
        check(ANCHORS, CANDIDATES, 9, 4, (None, None), (~shared, ~shared), anchor_labels=own, candidate_labels=other)


def test_margins_in_half_precision_and_float64():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        anchors, candidates = ANCHORS.to(dtype), CANDIDATES.to(dtype)
        scores = defined_scores(anchors, candidates)
        p = scores.masked_fill(STRANGERS, -torch.inf).amax(dim=1, keepdim=True)
        allowed = STRANGERS & (scores.double() <= p.double() - 0.1)
        result = mine_hard_negatives(anchors, candidates, 9, *IDS, margin=0.1)
        assert torch.equal(result.indices, pick(scores, allowed, 9)[0])


def test_skip_leaves_out_the_hardest():
    whole = mine_hard_negatives(ANCHORS, CANDIDATES, 30, *IDS)
    for skip in (1, 10, 29):
        later = mine_hard_negatives(ANCHORS, CANDIDATES, 30 - skip, *IDS, skip=skip)
        assert torch.equal(later.indices, whole.indices[:, skip:])
    beyond = mine_hard_negatives(ANCHORS, CANDIDATES, 5, *IDS, skip=400, direction="both")
    assert (beyond.indices == -1).all() and (beyond.reverse.indices == -1).all()


@pytest.mark.parametrize("kind", ["array", "npy", "memmap", "safetensors"])
def test_embeddings_come_from_arrays_and_files(tmp_path, kind):
    safetensors = pytest.importorskip("safetensors.torch")
    sides = []
    for name, rows in (("a", ANCHORS), ("b", CANDIDATES)):
        if kind == "array":
            sides.append(rows.numpy())
        elif kind == "safetensors":
            safetensors.save_file({"embeddings": rows}, tmp_path / f"{name}.safetensors")
            sides.append(tmp_path / f"{name}.safetensors")
        else:
            np.save(tmp_path / f"{name}.npy", rows.numpy())
            sides.append(
                str(tmp_path / f"{name}.npy") if kind == "npy" else np.load(tmp_path / f"{name}.npy", mmap_mode="r")
            )
    result = mine_hard_negatives(*sides, 20, *IDS, margin=0.1, memory_limit=400 << 20)
    expected = mine_hard_negatives(ANCHORS, CANDIDATES, 20, *IDS, margin=0.1)
    assert torch.equal(result.indices, expected.indices) and torch.equal(result.scores, expected.scores)


def test_caps_are_rounded_down():
    rules = MiningRules(1, margin=0.1)
    caps = rules.caps(torch.tensor([0.3, -torch.inf]))
    assert caps[0].double() <= torch.tensor(0.3).double() - 0.1 and caps[1] == torch.inf


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"direction": "back"}, ValueError, "direction must be 'anchors' or 'both', got 'back'"),
        ({"k_reverse": 3}, ValueError, "k_reverse must come with direction='both', got 3 with 'anchors'"),
        ({"direction": "both", "k_reverse": 0}, ValueError, "k_reverse must be at least 1, got 0"),
        ({"skip": -1}, ValueError, "skip must be at least 0, got -1"),
        ({"skip": 1.0}, TypeError, "skip must be an int, got float"),
        ({"margin": math.nan}, ValueError, "margin must be finite, got nan"),
        ({"margin": "0.1"}, TypeError, "margin must be a float, got str"),
        ({"relative_margin": -0.1}, ValueError, "relative_margin must be at least 0, got -0.1"),
        ({"max_score": math.inf}, ValueError, "max_score must be finite, got inf"),
        ({"margin": 0.1, "anchor_ids": None, "candidate_ids": None}, TypeError, "anchor_ids must be given with margin"),
        ({"anchor_labels": [[1]] * 40}, TypeError, "candidate_labels must be given with anchor_labels, got None"),
        (
            {"anchor_labels": [[1]] * 39, "candidate_labels": [[1]] * 300},
            ValueError,
            "anchor_labels must have labels for 40 rows, got 39",
        ),
        (
            {"anchor_labels": [1] * 40, "candidate_labels": [[1]] * 300},
            TypeError,
            "anchor_labels must be .values, offsets. or a sequence of integers for every row",
        ),
        (
            {"anchor_labels": (torch.ones(3), torch.ones(3)), "candidate_labels": [[1]] * 300},
            TypeError,
            "values of anchor_labels must be integers of one dimension, got float32",
        ),
        (
            {"anchor_labels": (torch.arange(3), torch.arange(41)), "candidate_labels": [[1]] * 300},
            ValueError,
            "anchor_labels must have offsets that rise from 0 to the number of values, 3",
        ),
        ({"margin": 10**400}, ValueError, "margin must be finite, got 1000"),
        (
            {"anchor_labels": [[1.9]] * 40, "candidate_labels": [[1]] * 300},
            TypeError,
            "anchor_labels must be .values, offsets. or a sequence of integers for every row",
        ),
        (
            {"anchor_labels": ["12"] * 40, "candidate_labels": [[1]] * 300},
            TypeError,
            "anchor_labels must be .values, offsets. or a sequence of integers for every row",
        ),
        ({"memory_limit": "4GB"}, TypeError, "memory_limit must be an int, got str"),
        ({"memory_limit": 0}, ValueError, "memory_limit must be at least 1 byte, got 0"),
        (
            {"memory_limit": 1000},
            ValueError,
            "memory_limit must be at least .* bytes for this task with .* threads, got 1,000",
        ),
    ],
)
def test_errors_name_the_argument(options, error, message):
    with pytest.raises(error, match=message):
        mine_hard_negatives(ANCHORS, CANDIDATES, 5, **({"anchor_ids": IDS[0], "candidate_ids": IDS[1]} | options))


def test_the_old_way_is_the_same():
    result = mine_hard_negatives(ANCHORS, CANDIDATES, 11, IDS[0], IDS[1])
    assert torch.equal(result.indices, brute_force(ANCHORS, CANDIDATES, 11, *IDS)[0])
    assert result.reverse is None


def test_many_threads_fit_the_usual_limit(path):
    if path == "plain":
        pytest.skip("the plain path's memory does not depend on threads")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(96)
        result = mine_hard_negatives(ANCHORS, CANDIDATES, 5, *IDS)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(result.indices, mine_hard_negatives(ANCHORS, CANDIDATES, 5, *IDS).indices)
