"""The step of mining against plain PyTorch, to the bit: every product, both directions, exclusions, caps, ties."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from aoq_ext.mining import fused, keys, plain
from aoq_ext.mining.side import Ragged, Side

ARITHMETIC = {"fastest": 0, "float32": 1, "bfloat16": 2, "torch": 3}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit_rows(rows: int, width: int, seed: int) -> Tensor:
    return normalize(torch.randn(rows, width, generator=generator(seed)), dim=1)


def near_copies(rows: int, width: int, seed: int, distinct: int = 7, noise: float = 1e-7) -> Tensor:
    """Few different rows, each many times, some of them off by next to nothing."""
    order = torch.randint(0, distinct, (rows,), generator=generator(seed))
    shift = torch.randint(-1, 2, (rows, 1), generator=generator(seed + 1))
    return unit_rows(distinct, width, seed)[order] * (1 + noise * shift)


def random_labels(rows: int, names: int, seed: int) -> Ragged:
    """No label to three labels a row, ascending."""
    counts = torch.randint(0, 4, (rows,), generator=generator(seed))
    picked = [
        torch.randperm(names, generator=generator(seed + i))[:count].sort().values for i, count in enumerate(counts)
    ]
    return Ragged(torch.cat([torch.empty(0, dtype=torch.int64), *picked]), torch.tensor([0, *counts]).cumsum(0))


def make_side(
    rows: Tensor, first: int = 0, seed: int | None = None, caps: float | None = None, names: int = 30
) -> Side:
    """With ids and labels where there is a seed."""
    count = len(rows)
    return Side(
        rows,
        first,
        ids=None if seed is None else torch.randint(0, names, (count,), generator=generator(seed)),
        labels=None if seed is None else random_labels(count, names, seed),
        caps=None if caps is None else torch.linspace(caps - 0.1, caps + 0.1, count),
    )


def assert_same_tile(anchors: Side, candidates: Side, k: int, k_reverse: int | None, **how: int) -> None:
    lists = keys.no_keys(len(anchors), k)
    columns = None if k_reverse is None else keys.no_keys(len(candidates), k_reverse)
    got = fused.mine_tile(anchors, candidates, lists, columns, **how)
    expected = plain.mine_tile(anchors, candidates, lists, columns)
    assert torch.equal(got[0], expected[0])
    assert (got[1] is None and expected[1] is None) or torch.equal(got[1], expected[1])


SHAPES = [  # n, m, D, k, k'
    (1, 1, 1, 1, 1),
    (5, 7, 3, 2, 4),
    (33, 257, 17, 10, 33),
    (64, 4100, 100, 60, 5),
    (600, 300, 33, 1, 300),
    (13, 70, 256, 70, 13),
    (1030, 150, 8, 4, 40),
    (20, 6000, 8, 4096, 20),
]


@pytest.mark.parametrize("arithmetic", ARITHMETIC.values(), ids=ARITHMETIC)
@pytest.mark.parametrize(("n", "m", "d", "k", "k_reverse"), SHAPES)
def test_shapes(n, m, d, k, k_reverse, arithmetic):
    anchors, candidates = unit_rows(n, d, 1), unit_rows(m, d, 2)
    for reverse in (None, k_reverse):
        assert_same_tile(Side(anchors, 3), Side(candidates, 5), k, reverse, arithmetic=arithmetic)


@pytest.mark.parametrize("arithmetic", ARITHMETIC.values(), ids=ARITHMETIC)
@pytest.mark.parametrize("panel", [0, 32, 100, 5000])
@pytest.mark.parametrize(("caps", "seed"), [(None, 3), (0.2, None), (0.05, 3), (-0.9, 3)])
def test_exclusions_and_caps(caps, seed, panel, arithmetic):
    anchors = make_side(unit_rows(90, 40, 4), 11, seed, caps)
    candidates = make_side(unit_rows(700, 40, 5), 1000, None if seed is None else seed + 1, caps)
    assert_same_tile(anchors, candidates, 30, 20, panel=panel, arithmetic=arithmetic)


@pytest.mark.parametrize("arithmetic", ARITHMETIC.values(), ids=ARITHMETIC)
@pytest.mark.parametrize("caps", [None, "of a tie"])
@pytest.mark.parametrize(("k", "k_reverse"), [(1, 3), (64, 10), (300, 200)])
def test_more_ties_than_a_buffer_holds(k, k_reverse, caps, arithmetic):
    rows, columns = near_copies(400, 24, 6), near_copies(3000, 24, 6)
    anchors, candidates = make_side(rows, seed=7, names=1000), make_side(columns, seed=8, names=1000)
    if caps:  # the caps are scores that occur, so that one rounding decides
        score = plain.ordered_dot(rows.double(), columns[: len(rows)].double()).float()
        anchors = Side(rows, 0, anchors.ids, anchors.labels, score)
        candidates = Side(columns, 0, candidates.ids, candidates.labels, score.repeat(8)[: len(columns)])
    assert_same_tile(anchors, candidates, k, k_reverse, arithmetic=arithmetic)


@pytest.mark.parametrize("arithmetic", ARITHMETIC.values(), ids=ARITHMETIC)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e17, 1e25])
def test_scales(scale, arithmetic):
    """Subnormal products, and values that bfloat16 would make infinite."""
    anchors, candidates = unit_rows(30, 20, 9), near_copies(500, 20, 10)
    assert_same_tile(Side(anchors * scale), Side(candidates / max(scale, 1e-8)), 12, 12, arithmetic=arithmetic)


def test_all_equal_scores_in_both_directions():
    ones = torch.ones(9000, 24)
    lists, columns = fused.mine_tile(Side(ones[:500]), Side(ones), keys.no_keys(500, 50), keys.no_keys(9000, 20))
    assert torch.equal(keys.unpack(lists)[0], torch.arange(50).expand(500, 50))
    assert torch.equal(keys.unpack(columns)[0], torch.arange(20).expand(9000, 20))


@pytest.mark.parametrize("arithmetic", ARITHMETIC.values(), ids=ARITHMETIC)
def test_tiles_may_come_in_any_order_and_any_shape(arithmetic):
    anchors = make_side(near_copies(130, 20, 11, distinct=40), seed=12, caps=0.6)
    candidates = make_side(near_copies(900, 20, 13, distinct=40), seed=14, caps=0.6)
    expected = plain.mine_tile(anchors, candidates, keys.no_keys(130, 25), keys.no_keys(900, 9))
    for seed, (rows, columns) in enumerate([(130, 900), (50, 300), (17, 111), (130, 64)]):
        lists, others = keys.no_keys(130, 25), keys.no_keys(900, 9)
        tiles = list(itertools.product(range(0, 130, rows), range(0, 900, columns)))
        for place in torch.randperm(len(tiles), generator=generator(seed)).tolist():
            top, left = tiles[place]
            bottom, right = min(top + rows, 130), min(left + columns, 900)
            found, reverse = fused.mine_tile(
                anchors.part(top, bottom), candidates.part(left, right), lists[top:bottom], others[left:right],
                arithmetic=arithmetic,
            )  # fmt: skip
            lists[top:bottom], others[left:right] = found, reverse
        assert torch.equal(lists, expected[0])
        assert torch.equal(others, expected[1])


def test_threads_do_not_matter():
    anchors = make_side(near_copies(700, 16, 15, distinct=60, noise=1e-3), seed=16, names=500)
    candidates = make_side(near_copies(2500, 16, 17, distinct=60, noise=1e-3), seed=18, names=500)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            for _ in range(3):
                assert_same_tile(anchors, candidates, 40, 30)
    finally:
        torch.set_num_threads(before)


def test_a_coarse_product_gives_way_where_it_cannot_tell_rows_apart():
    """Rows so alike that bfloat16 separates none of them; the lists are exact all the same."""
    anchors = normalize(1 + 1e-3 * torch.randn(300, 64, generator=generator(19)), dim=1)
    candidates = normalize(1 + 1e-3 * torch.randn(8000, 64, generator=generator(20)), dim=1)
    assert_same_tile(Side(anchors), Side(candidates), 20, 10, arithmetic=ARITHMETIC["bfloat16"])


@pytest.mark.parametrize("rounding", [2.0**-8, 0.5])
def test_torch_may_round_its_inputs(rounding):
    anchors, candidates = unit_rows(60, 32, 21), near_copies(900, 32, 22, distinct=100)
    lists, columns = keys.no_keys(60, 20), keys.no_keys(900, 20)
    expected = plain.mine_tile(Side(anchors), Side(candidates), lists, columns)
    got = torch.ops.aoq.mine_tile(
        anchors, candidates, lists, columns, 0, 0, None, None, None, None, None, None, None, None, rounding, 3, 0
    )
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0)])
def test_empty_tiles_change_nothing(sizes):
    n, m = sizes
    lists, columns = torch.arange(3 * n).view(n, 3), torch.arange(2 * m).view(m, 2)
    got = fused.mine_tile(Side(torch.ones(n, 4)), Side(torch.ones(m, 4)), lists, columns)
    assert torch.equal(got[0], lists) and torch.equal(got[1], columns)


def test_strides_do_not_matter():
    anchors, candidates = make_side(unit_rows(20, 24, 23), seed=24, caps=0.3), make_side(unit_rows(90, 24, 25), seed=26)
    candidates = Side(candidates.rows, 0, candidates.ids, candidates.labels, torch.full((90,), 0.3))
    lists, columns = keys.no_keys(20, 8), keys.no_keys(90, 8)
    expected = plain.mine_tile(anchors, candidates, lists, columns)

    def spread(side: Side) -> Side:
        wide = lambda x: x.repeat_interleave(2, dim=-1)[..., ::2]  # noqa: E731
        labels = Ragged(wide(side.labels.values), wide(side.labels.offsets))
        return Side(side.rows.T.contiguous().T, side.first, wide(side.ids), labels, wide(side.caps))

    got = fused.mine_tile(spread(anchors), spread(candidates), lists.T.contiguous().T, columns.T.contiguous().T)
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


def test_opcheck():
    rows, columns = (
        make_side(unit_rows(9, 12, 27), seed=28, caps=0.2),
        make_side(unit_rows(30, 12, 29), seed=30, caps=0.2),
    )
    for candidate_keys, sides in itertools.product((None, keys.no_keys(30, 4)), ((rows, columns), (None, None))):
        known = [None] * 8
        if sides[0] is not None:
            labels = [part for side in sides for part in side.labels.tensors()]
            known = [rows.ids, columns.ids, *labels, rows.caps, columns.caps]
        torch.library.opcheck(
            torch.ops.aoq.mine_tile.default,
            (rows.rows, columns.rows, keys.no_keys(9, 5), candidate_keys, 0, 0, *known),
        )


EYE, ROW, LISTS = torch.eye(4), torch.arange(4), keys.no_keys(4, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchors": EYE[0]}, "anchors must have shape"),
        ({"candidates": EYE[:, :0]}, "candidates must have shape"),
        ({"candidates": EYE.double()}, "candidates must have the dtype of anchors"),
        ({"anchors": EYE.double(), "candidates": EYE.double()}, "anchors must be float32 on the CPU"),
        ({"candidates": EYE[:, :3]}, "candidates must have the D of anchors"),
        ({"anchor_keys": LISTS[:3]}, "anchor_keys must have shape"),
        ({"anchor_keys": LISTS[:, :0]}, "anchor_keys must have shape"),
        ({"anchor_keys": LISTS.int()}, "anchor_keys must be int64"),
        ({"candidate_keys": LISTS[:2]}, "candidate_keys must have shape"),
        ({"first_anchor": -1}, "first_anchor must keep indices below"),
        ({"first_candidate": 2**32}, "first_candidate must keep indices below"),
        ({"anchor_ids": ROW}, "both ids must be given"),
        ({"anchor_ids": ROW[:2], "candidate_ids": ROW}, "anchor_ids must have shape"),
        ({"anchor_ids": ROW, "candidate_ids": ROW.int()}, "candidate_ids has the wrong dtype"),
        ({"anchor_labels": ROW, "anchor_offsets": torch.arange(5)}, "both labels must be given"),
        ({"anchor_labels": ROW, "candidate_labels": ROW}, "anchor_labels and their offsets must be given together"),
        (
            {"anchor_labels": ROW, "candidate_labels": ROW, "anchor_offsets": torch.tensor([0, 1, 2, 3, 9]),
             "candidate_offsets": torch.arange(5)},
            "offsets of labels must rise and stay within the labels",
        ),
        ({"candidate_caps": torch.ones(3)}, "candidate_caps must have shape"),
        ({"input_rounding": float("nan")}, "must not be negative"),
        ({"panel": -1}, "must not be negative"),
        ({"arithmetic": 4}, "arithmetic has no meaning: 4"),
    ],
)  # fmt: skip
def test_operator_refuses_what_would_be_unsafe(change, message):
    names = ("anchors", "candidates", "anchor_keys", "candidate_keys", "first_anchor", "first_candidate", "anchor_ids",
             "candidate_ids", "anchor_labels", "anchor_offsets", "candidate_labels", "candidate_offsets", "anchor_caps",
             "candidate_caps", "input_rounding", "arithmetic", "panel")  # fmt: skip
    numbers = {"first_anchor": 0, "first_candidate": 0, "input_rounding": 0.0, "arithmetic": 0, "panel": 0}
    given = dict.fromkeys(names) | {"anchors": EYE, "candidates": EYE, "anchor_keys": LISTS} | numbers | change
    with pytest.raises(RuntimeError, match=message):
        torch.ops.aoq.mine_tile(*given.values())
