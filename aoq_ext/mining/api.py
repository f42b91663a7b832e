"""Offline hard negatives: for every anchor the k best-scoring candidates that do not belong to it, exactly.

The score of a pair is defined once, for every path: the dot product summed in float64 in one fixed order
(`aoq_ext.mining.plain.ordered_dot`), rounded to float32. Scores are compared after that rounding, so the order of the
result is the order of the scores the caller sees, and equal scores are ordered by candidate index. A fast product only
decides which pairs need that sum, under a proven error bound; hence the result does not depend on panel size, thread
count, BLAS, device or the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .._sources import Source, check_sources, open_embeddings
from ..parallel import ALONE, joined
from . import keys
from .devices import checked_device, device_of
from .engine import OnTile, mine_rows
from .plan import make_plan
from .rules import MiningRules
from .shared import make_shared_task, mine_shared
from .task import GivenSide, Ids, Labels, MiningTask, make_task

if TYPE_CHECKING:
    from .._sources import EmbeddingsLike

_UNPACKED_KEYS = 1 << 18


@dataclass(frozen=True, eq=False)
class HardNegatives:
    """What `mine_hard_negatives` found, on the device of the anchors.

    Attributes:
        indices: (N, k) int64, rows of the candidates, hardest first; -1 where an anchor has fewer than k negatives.
        scores: (N, k) float32, their scores; -inf where the index is -1.
        reverse: with ``direction="both"``, the same for every candidate: its indices, (M, k_reverse), are rows of the
            anchors.
    """

    indices: Tensor
    scores: Tensor
    reverse: HardNegatives | None = None

    def __repr__(self) -> str:
        rows, k = self.indices.shape
        found = (self.indices >= 0).sum(dim=1)
        if not found.any():
            return f"HardNegatives(anchors={rows}, k={k}, no negatives)"
        hardest = self.scores[found > 0, 0]
        short = int((found < k).sum())
        return (
            f"HardNegatives(anchors={rows}, k={k}, hardest score {hardest.min():.4g} to {hardest.max():.4g}"
            + (f", {short} anchors with fewer than {k}" if short else "")
            + (f", reverse={self.reverse}" if self.reverse is not None else "")
            + ")"
        )


@torch.no_grad()
def mine_hard_negatives(
    anchors: EmbeddingsLike,
    candidates: EmbeddingsLike,
    k: int,
    anchor_ids: Ids | None = None,
    candidate_ids: Ids | None = None,
    *,
    direction: Literal["anchors", "both"] = "anchors",
    k_reverse: int | None = None,
    anchor_labels: Labels | None = None,
    candidate_labels: Labels | None = None,
    skip: int = 0,
    margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    distributed: bool = False,
    memory_limit: int | None = None,
    device: torch.device | str | None = None,
    on_tile: OnTile | None = None,
) -> HardNegatives:
    """The k hardest negatives of every anchor among all candidates.

    A negative is hard when its dot product with the anchor is high, so embeddings should come normalised as the model
    compares them. What may not be a negative is left out before the selection, so k are found wherever k exist:
    candidates that have the anchor's id or share a label with it, and those that the rules on ranks and scores exclude.
    Let s be the score of a candidate, and p the highest score of the candidates that have the anchor's id.

    Args:
        anchors: (N, D), float32, float16, bfloat16 or float64: a tensor of any strides, a numpy array or memory map, or
            the path of a ``.npy`` or ``.safetensors`` file. Files are read block by block and may exceed memory.
        candidates: (M, D), likewise; same dtype, and for tensors same device.
        k: negatives wanted per anchor, at least 1; may exceed M.
        anchor_ids: (N,) integers, and
        candidate_ids: (M,) integers: both or neither. Pairs with equal ids belong together.
        direction: ``"both"`` finds the hardest anchors of every candidate as well, in ``result.reverse``; every score
            is computed once.
        k_reverse: anchors wanted per candidate with ``direction="both"``; None: k.
        anchor_labels, candidate_labels: any number of integers a row, both or neither: a sequence of N (of M)
            sequences, or values (L,) with offsets (N + 1,). Pairs with a common label belong together, though they are
            not each other's positives: captions that say the same, for one.
        skip: leaves out the hardest ``skip`` of those that remain: lists hold the ranks skip + 1 to skip + k.
        margin: s ≤ p − margin.
        relative_margin: s ≤ p − relative_margin · |p|, below p for negative p too.
        max_score: s ≤ max_score. The margins need ids; they do not bind an anchor without a candidate of its own. With
            ``direction="both"`` all rules hold for the candidates' lists too, with the p of the candidate.
        distributed: every process of torch.distributed gives rows of its own, in rank order: N and M are those of
            this rank, indices count over all ranks. The result is that of one process, bit for bit. A rank holds its
            anchors in memory, whatever they came from.
        memory_limit: bytes that mining may use beyond its arguments and its result; None: 4 GiB, or half of what is
            free where that is less.
        device: where it computes; None: where the anchors are.
        on_tile: called after every tile of scores, some seconds apart, with how many scores it had.

    Returns:
        `HardNegatives`: ``indices`` (N, k) int64 and ``scores`` (N, k) float32, hardest first, equal scores by lower
        index; -1 and -inf where fewer than k exist.

    Raises:
        TypeError: an argument has the wrong type or dtype, or only one of a pair is given.
        ValueError: shapes or devices disagree, a number is out of range, embeddings are not finite or their scores
            exceed float32, or memory_limit is too small for any tile.

    Example:
        >>> images, texts = torch.eye(3), torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.1], [0.2, 0.0, 1.0]])
        >>> mine_hard_negatives(images, texts, 1, torch.arange(3), torch.arange(3)).indices
        tensor([[2],
                [0],
                [1]])
    """

    def check() -> tuple[MiningRules, tuple[Source, Source], torch.device]:
        rules = MiningRules.given(
            direction, k, k_reverse, skip=skip, margin=margin, relative_margin=relative_margin, max_score=max_score
        )
        sources = open_embeddings(anchors, "anchors"), open_embeddings(candidates, "candidates")
        check_sources(*sources)
        return rules, sources, checked_device(device) if device is not None else device_of(sources[0])

    processes = joined() if distributed else ALONE
    rules, sources, where = processes.together("checking the arguments", check)
    given = (GivenSide(sources[0], anchor_ids, anchor_labels), GivenSide(sources[1], candidate_ids, candidate_labels))
    if not processes.alone:
        shared = make_shared_task(processes, *given, rules)
        task = shared.task
        found, reverse = mine_shared(shared, memory_limit, where, on_tile)
        lists = UnpackedLists(rules.k, len(task.anchors), device_of(sources[0]))
        lists.fill(task, 0, found)
    else:
        task = make_task(*given, rules)
        plan = make_plan(task, memory_limit, where)
        depth = task.depth_reverse
        reverse = None if depth is None else keys.no_keys(len(task.candidates), depth, where)
        lists = UnpackedLists(rules.k, len(task.anchors), device_of(sources[0]))
        for start in range(0, len(task.anchors), plan.resident_rows):
            stop = min(start + plan.resident_rows, len(task.anchors))
            lists.fill(task, start, mine_rows(task, start, stop, plan, where, reverse, on_tile))
    backward = None
    if reverse is not None and rules.k_reverse is not None:
        others = UnpackedLists(rules.k_reverse, len(task.candidates), device_of(sources[1]))
        others.fill(task, 0, reverse)
        backward = HardNegatives(others.indices, others.scores)
    return HardNegatives(lists.indices, lists.scores, backward)


class UnpackedLists:
    """The result in the making: filled block by block, since keys, indices and scores together are large."""

    def __init__(self, k: int, rows: int, device: torch.device) -> None:
        self.indices = torch.empty(rows, k, dtype=torch.int64, device=device)
        self.scores = torch.empty(rows, k, dtype=torch.float32, device=device)

    def fill(self, task: MiningTask, first: int, found: Tensor) -> None:
        """Rows from ``first`` on, from their keys (n, depth)."""
        k = self.indices.shape[1]
        step = max(1, _UNPACKED_KEYS // max(k, found.shape[1]))
        for start in range(0, len(found), step):
            some = found[start : start + step]
            part = slice(first + start, first + start + len(some))
            self.indices[part], self.scores[part] = task.lists(some, k)
