"""Mining over rows that are spread over processes: each finds the negatives of its own anchors among everyone's
candidates.

Candidates go round block by block; ids, labels and caps, which are small, are known to all from the start. What a rank
finds for the candidates of another is merged by their owner. Keys are exact and unique, so the lists are those of one
process, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from .._sources import TensorSource, check_all_finite
from ..parallel import Processes
from ..parallel.tensors import exchange_device, gather_equal, reduce_over_ranks, send_to_all
from . import keys
from .embeddings import Embeddings
from .engine import OnTile, mine_side
from .plan import make_plan
from .rules import MiningRules, no_positives, positive_scores
from .side import Ragged
from .task import GivenSide, MiningTask, check_scores_fit, make_sides

_POSITIVE_BLOCK = 1 << 26  # bytes of candidates that go round at a time


@dataclass(frozen=True)
class SharedTask:
    """This rank's part of a task."""

    task: MiningTask  # its own anchors and candidates, numbered among all
    everyone: list[Embeddings]  # the candidates of each rank; only this rank's have rows
    processes: Processes

    @property
    def own(self) -> Embeddings:
        return self.everyone[self.processes.rank]


@dataclass(frozen=True)
class _Absent:
    """The rows of another rank."""

    shape: tuple[int, int]
    dtype: torch.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return torch.empty(stop - start, self.shape[1], dtype=self.dtype, device="cpu")

    def take(self, index: Tensor) -> Tensor:
        raise RuntimeError("rows of another rank cannot be taken")


@dataclass(frozen=True)
class _Part:
    """What a rank tells the others before anything is computed."""

    settings: dict[str, object]  # the same on every rank
    anchors: int
    anchor_norm: float
    candidates: int
    candidate_norm: float
    ids: Tensor | None
    labels: tuple[Tensor, Tensor] | None


def make_shared_task(
    processes: Processes,
    anchors: GivenSide,  # N rows of this rank
    candidates: GivenSide,  # M rows of this rank
    rules: MiningRules,
) -> SharedTask:
    """As `aoq_ext.mining.task.make_task`; every rank raises where one does."""
    sides: list[Embeddings] = []

    def describe() -> _Part:
        sides.extend(make_sides(anchors, candidates, rules))
        settings: dict[str, object] = {
            **rules.values(),
            "the width D": anchors.source.shape[1],
            "the dtype": anchors.source.dtype,
            "whether there are ids": anchors.ids is not None,
            "whether there are labels": anchors.labels is not None,
        }
        norms = [
            check_all_finite(name, side.source) for name, side in (("anchors", anchors), ("candidates", candidates))
        ]
        labels = None if sides[1].labels is None else sides[1].labels.tensors()
        return _Part(settings, len(sides[0]), norms[0], len(sides[1]), norms[1], sides[1].ids, labels)

    parts = processes.meet("checking the arguments", describe)
    rows, columns = sides
    for rank, part in enumerate(parts):
        for name, value in part.settings.items():
            if value != parts[0].settings[name]:
                raise ValueError(
                    f"{name} must be the same on every rank with distributed=True, "
                    f"but is {parts[0].settings[name]} on rank 0 and {value} on rank {rank}"
                )
    check_scores_fit(max(part.anchor_norm for part in parts), max(part.candidate_norm for part in parts))
    everyone, first = [], 0
    for rank, part in enumerate(parts):
        own = rank == processes.rank
        source = columns.source if own else _Absent((part.candidates, columns.width), candidates.source.dtype)
        labels = None if part.labels is None else Ragged(*part.labels)
        everyone.append(Embeddings(source, part.ids, labels, first=first))
        first += part.candidates
    rows = replace(rows, first=sum(part.anchors for part in parts[: processes.rank]))
    all_anchors = sum(part.anchors for part in parts)
    columns = everyone[processes.rank]
    task = MiningTask(rows, columns, rules, all_anchors, first)
    shared = SharedTask(task, everyone, processes)
    return _with_caps(shared) if rules.has_caps else shared


def mine_shared(
    shared: SharedTask, memory_limit: int | None, device: torch.device, on_tile: OnTile | None = None
) -> tuple[Tensor, Tensor | None]:
    """The keys (N, depth) of this rank's anchors and, where wanted, (M, depth_reverse) of its candidates."""
    task, processes = shared.task, shared.processes
    plans = processes.meet("planning", lambda: make_plan(task, memory_limit, device))
    block = min(plan.candidate_rows for plan in plans)
    plan = replace(plans[processes.rank], resident_rows=max(1, len(task.anchors)), candidate_rows=block)
    lists = keys.no_keys(len(task.anchors), task.depth, device)
    reverse = None
    if task.depth_reverse is not None:
        reverse = keys.no_keys(len(task.candidates), task.depth_reverse, device)
    anchors = task.anchors.side(0, len(task.anchors), device)
    for owner, candidates in enumerate(shared.everyone):
        for start in range(0, len(candidates), block):
            stop = min(start + block, len(candidates))
            some = _block(candidates, start, stop, owner, device)
            found = None if reverse is None else keys.no_keys(stop - start, task.depth_reverse or 1, device)
            mine_side(anchors, some, lists, plan, device, found, on_tile)
            if reverse is not None and found is not None:
                everyones = _everyones(found)
                if owner == processes.rank:
                    reverse[start:stop] = keys.merge(reverse.shape[1], *everyones)
    return lists, reverse


def _block(candidates: Embeddings, start: int, stop: int, owner: int, device: torch.device) -> Embeddings:
    """Rows [start, stop) of the candidates of rank ``owner``, sent to everyone."""
    where = exchange_device(device)
    rows = candidates.source.rows(start, stop).to(where).contiguous()
    send_to_all(rows, owner)
    return Embeddings(
        TensorSource(rows.to(device)),
        None if candidates.ids is None else candidates.ids[start:stop],
        None if candidates.labels is None else candidates.labels.part(start, stop),
        None if candidates.caps is None else candidates.caps[start:stop],
        candidates.first + start,
    )


def _everyones(keys: Tensor) -> Tensor:  # (m, k) -> (W, m, k)
    return gather_equal(keys.to(exchange_device(keys.device))).to(keys.device)


def _with_caps(shared: SharedTask) -> SharedTask:
    """The task with the caps of every anchor and candidate."""
    task, rules = shared.task, shared.task.rules
    row_best = no_positives(len(task.anchors))
    column_best = [no_positives(len(candidates)) for candidates in shared.everyone]
    if rules.needs_positives:
        where = exchange_device(torch.device("cpu"))
        step = max(1, _POSITIVE_BLOCK // (task.anchors.width * task.anchors.source.dtype.itemsize))
        for owner, candidates in enumerate(shared.everyone):
            for start in range(0, len(candidates), step):
                stop = min(start + step, len(candidates))
                some = _block(candidates, start, stop, owner, where)
                of_rows, of_columns = positive_scores(task.anchors, some)
                row_best = row_best.maximum(of_rows)
                column_best[owner][start:stop] = reduce_over_ranks(of_columns.to(where), dist.ReduceOp.MAX).cpu()
    everyone = [side.with_caps(rules.caps(best)) for side, best in zip(shared.everyone, column_best)]
    anchors = task.anchors.with_caps(rules.caps(row_best))
    task = replace(task, anchors=anchors, candidates=everyone[shared.processes.rank])
    return SharedTask(task, everyone, shared.processes)
