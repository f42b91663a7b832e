"""Rows that are spread over processes give the lists of one process, bit for bit."""

from __future__ import annotations

import pytest
import torch

from aoq_ext.mining import engine, mine_hard_negatives
from aoq_ext.mining.tile import mine_tile
from tests.mining.test_tile import near_copies, unit_rows
from tests.processes import launch

SIZES = {1: ((40,), (130,)), 2: ((11, 29), (70, 60)), 3: ((0, 25, 15), (50, 0, 80))}  # uneven, some of them empty
OPTIONS = [
    {},
    {"direction": "both", "k_reverse": 7},
    {"direction": "both", "skip": 2, "margin": 0.1, "max_score": 0.8},
    {"relative_margin": 0.2, "memory_limit": 300 << 20},
]


def problem(dtype: torch.dtype):
    anchors, candidates = unit_rows(40, 20, 1).to(dtype), near_copies(130, 20, 2, distinct=50).to(dtype)
    ids = torch.arange(40) // 2, torch.arange(130) % 25
    labels = [[i % 11] for i in range(40)], [[j % 17, 90 + j] for j in range(130)]
    return anchors, candidates, ids, labels


def part_of(rank: int, sizes: tuple[int, ...]) -> slice:
    first = sum(sizes[:rank])
    return slice(first, first + sizes[rank])


def tiles_are_few(rank, world):
    """Also beside ranks that hold little or nothing."""
    anchors, candidates, ids, _ = problem(torch.float32)
    rows, columns = part_of(rank, SIZES[world][0]), part_of(rank, SIZES[world][1])
    tiles = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "mine_tile", lambda *given: tiles.append(given) or mine_tile(*given))
        mine_hard_negatives(anchors[rows], candidates[columns], 9, ids[0][rows], ids[1][columns], distributed=True)
    assert len(tiles) <= sum(size > 0 for size in SIZES[world][1])


def mine_everything(rank, world):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        anchors, candidates, ids, labels = problem(dtype)
        rows, columns = part_of(rank, SIZES[world][0]), part_of(rank, SIZES[world][1])
        for options in OPTIONS:
            known = {"anchor_labels": labels[0], "candidate_labels": labels[1]} if len(options) != 2 else {}
            whole = mine_hard_negatives(anchors, candidates, 9, *ids, **known, **options)
            known = {name: value[rows if name[0] == "a" else columns] for name, value in known.items()}
            mine = mine_hard_negatives(
                anchors[rows],
                candidates[columns],
                9,
                ids[0][rows],
                ids[1][columns],
                distributed=True,
                **known,
                **options,
            )
            assert torch.equal(mine.indices, whole.indices[rows])
            assert torch.equal(mine.scores, whole.scores[rows])
            if whole.reverse is not None:
                assert torch.equal(mine.reverse.indices, whole.reverse.indices[columns])
                assert torch.equal(mine.reverse.scores, whole.reverse.scores[columns])


@pytest.mark.parametrize("world", SIZES)
def test_ranks_do_not_matter(world):
    launch(world, mine_everything, world)


def test_a_rank_with_little_does_not_make_small_tiles():
    launch(3, tiles_are_few, 3)


def disagree(rank):
    rows = torch.eye(4)
    with pytest.raises(ValueError, match=r"k must be the same on every rank .* but is 2 on rank 0 and 3 on rank 1"):
        mine_hard_negatives(rows, rows, 2 + rank, distributed=True)
    with pytest.raises(ValueError, match="the width D must be the same on every rank"):
        mine_hard_negatives(rows[:, : 4 - rank], rows[:, : 4 - rank], 2, distributed=True)


def one_refuses(rank):
    rows = torch.eye(4)
    rows[1, 1] = torch.nan if rank == 1 else 1.0
    expected, message = (ValueError, "NaN or infinity in row 1") if rank == 1 else (RuntimeError, "rank 1 failed while")
    with pytest.raises(expected, match=message):
        mine_hard_negatives(rows, rows, 2, distributed=True)


def one_has_a_wrong_number(rank):
    rows = torch.eye(4)
    expected, message = (ValueError, "k must be at least 1, got 0") if rank == 1 else (RuntimeError, "rank 1 failed")
    with pytest.raises(expected, match=message):
        mine_hard_negatives(rows, rows, 2 - 2 * rank, distributed=True)
    with pytest.raises(TypeError if rank == 1 else RuntimeError, match="anchors must be" if rank else "rank 1 failed"):
        mine_hard_negatives(3 if rank else rows, rows, 2, distributed=True)


@pytest.mark.parametrize("body", [disagree, one_refuses, one_has_a_wrong_number])
def test_all_ranks_refuse_together(body):
    launch(2, body)
