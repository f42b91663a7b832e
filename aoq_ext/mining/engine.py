"""Carrying out a mining task, tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from . import keys
from .embeddings import Embeddings
from .plan import MiningPlan
from .side import Side
from .staging import staged_blocks
from .task import MiningTask
from .tile import mine_tile


@dataclass(frozen=True)
class TileDone:
    """What a tile added to the work that is done."""

    scores: int  # pairs that it scored


OnTile = Callable[[TileDone], None]


def mine_rows(
    task: MiningTask,
    start: int,
    stop: int,
    plan: MiningPlan,
    device: torch.device,
    reverse: Tensor | None = None,  # (M, depth_reverse) keys, on any device; they become those after these anchors
    on_tile: OnTile | None = None,
) -> Tensor:
    """The keys (stop − start, depth) of anchors [start, stop) against all candidates, on ``device``.

    Keys are defined to the bit, whatever the plan and the device. `KeyboardInterrupt` comes through between tiles, a
    second or two apart.
    """
    lists = keys.no_keys(stop - start, task.depth, device)
    for top in range(start, stop, plan.resident_rows):
        bottom = min(top + plan.resident_rows, stop)
        anchors = task.anchors.side(top, bottom, device)
        mine_side(anchors, task.candidates, lists[top - start : bottom - start], plan, device, reverse, on_tile)
        del anchors  # before the next are read
    return lists


def mine_side(
    anchors: Side,
    candidates: Embeddings,
    lists: Tensor,  # (n, depth) keys, which become those after these candidates
    plan: MiningPlan,
    device: torch.device,
    reverse: Tensor | None = None,  # (M, depth_reverse) likewise, of the candidates
    on_tile: OnTile | None = None,
) -> None:
    """Merge the scores of some anchors with all candidates into the lists of both."""
    step = plan.candidate_rows
    ranges = [(left, min(left + step, len(candidates))) for left in range(0, len(candidates), step)]
    with closing(staged_blocks(candidates.source, ranges, device)) as blocks:
        for (left, right), rows in zip(ranges, blocks):
            some = candidates.side(left, right, device, rows)
            columns = None if reverse is None else reverse[left:right].to(device)
            for first in range(0, len(anchors), plan.anchor_rows):
                part = slice(first, first + plan.anchor_rows)
                tile = anchors.part(first, min(first + plan.anchor_rows, len(anchors)))
                lists[part], columns = mine_tile(tile, some, lists[part], columns)
                if on_tile is not None:
                    on_tile(TileDone(len(tile) * len(some)))
            if reverse is not None and columns is not None:
                reverse[left:right] = columns
