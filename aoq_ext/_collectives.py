"""A batch that is spread over processes: who holds which rows, and the collectives that the losses need.

All of them run on the default process group, in the same order on every rank, and fail when a rank is gone: at once
where the backend notices it, else after the timeout that ``torch.distributed.init_process_group`` was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_LOW = 0xFFFFFFFF
_REFUSED = -1
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13


@dataclass(frozen=True)
class Batch:
    """The rows of the batch in rank order: this process holds ``first``, …, ``first + rows − 1`` of ``total``."""

    sizes: tuple[int, ...]
    rank: int

    @property
    def rows(self) -> int:
        return self.sizes[self.rank]

    @property
    def first(self) -> int:
        return sum(self.sizes[: self.rank])

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def own(self, rows: Tensor) -> Tensor:  # (C, ...) -> (B, ...)
        return rows[self.first : self.first + self.rows]


def is_distributed() -> bool:
    """Whether there are other processes; RuntimeError where a launcher started some and nobody joined them."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() > 1
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            f"gather_distributed=True, and a launcher started WORLD_SIZE={os.environ['WORLD_SIZE']} processes, but "
            "torch.distributed is not initialised; call torch.distributed.init_process_group first"
        )
    return False


def join(check: Callable[[], None], describe: Callable[[], Mapping[str, int]], model: Tensor) -> Batch:
    """Check this rank's arguments, then that all ranks agree on them; every rank raises where one does.

    ``describe`` returns the number of rows under ``"rows"`` and, under the names of arguments, what must be the same on
    every rank. The ranks talk where ``model`` is.
    """
    on_cuda = isinstance(model, Tensor) and model.is_cuda and dist.get_backend() != "gloo"
    device = model.device if on_cuda else torch.device("cpu")
    rank, world = dist.get_rank(), dist.get_world_size()
    try:
        check()
        description = {"version": 1, **describe()}
    except (TypeError, ValueError):
        _exchange([_REFUSED], device)
        raise
    everyone = _exchange(list(description.values()), device)
    refused = [r for r in range(world) if everyone[r][0] == _REFUSED]
    if refused:
        raise RuntimeError(f"rank {refused[0]} refused the arguments of the loss; its own error says why")
    for position, name in enumerate(description):
        for other in range(world):
            if name != "rows" and everyone[other][position] != everyone[rank][position]:
                raise ValueError(
                    f"{name} must be the same on every rank with gather_distributed=True, "
                    f"but differs between rank {rank} and rank {other}"
                )
    rows = list(description).index("rows")
    return Batch(tuple(numbers[rows] for numbers in everyone), rank)


def _exchange(numbers: Sequence[int], device: torch.device, capacity: int = 24) -> list[list[int]]:
    assert len(numbers) <= capacity
    own = torch.tensor([*numbers, *[0] * (capacity - len(numbers))], dtype=torch.int64, device=device)
    everyone = own.new_empty((dist.get_world_size(), capacity))
    _all_gather(everyone.flatten(), own)
    return [list(map(int, row)) for row in everyone.tolist()]


def gather_rows(rows: Tensor, batch: Batch) -> Tensor:  # (B, ...) -> (C, ...)
    """The rows of every rank, in rank order; not differentiable."""
    longest = max(batch.sizes)
    padded = rows.detach().contiguous()
    if batch.rows < longest:
        padded = torch.cat([padded, padded.new_zeros((longest - batch.rows, *rows.shape[1:]))])
    gathered = padded.new_empty((len(batch.sizes), *padded.shape))
    if padded.numel() > 0:  # as bytes, for not every backend knows every dtype
        _all_gather(gathered.flatten().view(torch.uint8), padded.flatten().view(torch.uint8))
    if len(set(batch.sizes)) == 1:
        return gathered.flatten(0, 1)
    return torch.cat([part[:size] for part, size in zip(gathered, batch.sizes)])


def merge_hardest(keys: Tensor, score_bits: int) -> Tensor:
    """The greatest score of any rank, then its lowest index: (2, C) int64 [order key, index] in and out, on every rank.

    A key of 32 bits is packed with its index, so that one integer maximum decides both, whichever rank comes first.
    """
    score, index = keys
    if score_bits == 32:
        packed = (score << 32) | ((index & _LOW) ^ _LOW)  # a lower index is a greater key; none, −1, the least
        dist.all_reduce(packed, dist.ReduceOp.MAX)
        low = (packed & _LOW) ^ _LOW
        return torch.stack([packed >> 32, torch.where(low == _LOW, -1, low)])
    best = score.clone()
    dist.all_reduce(best, dist.ReduceOp.MAX)
    index = torch.where((score == best) & (index >= 0), index, torch.iinfo(torch.int64).max)
    dist.all_reduce(index, dist.ReduceOp.MIN)
    return torch.stack([best, torch.where(index == torch.iinfo(torch.int64).max, -1, index)])


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over ranks, added in rank order, so that every rank and every run has the same bits."""
    everyone = values.new_empty((dist.get_world_size(), *values.shape))
    _all_gather(everyone.flatten(), values.contiguous().flatten())
    return everyone.sum(dim=0)


def refuse_second_derivative() -> None:
    """To be called in a backward pass: where that is itself recorded, its gradients would silently lack a part."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "losses with gather_distributed=True have no second derivative: double backward (create_graph=True) is not "
            "supported across processes"
        )


class GatherRows(torch.autograd.Function):
    """gather_rows, with the gradients of all ranks summed into the rank that owns a row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, batch: Batch) -> Tensor:
        ctx.batch = batch
        return gather_rows(rows, batch)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative()
        return ctx.batch.own(sum_over_ranks(grad)), None


class SumOverRanks(torch.autograd.Function):
    """The sum of a value over ranks; each rank's gradient is that of its own part."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return sum_over_ranks(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        refuse_second_derivative()
        return grad
