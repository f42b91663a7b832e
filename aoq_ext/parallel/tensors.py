"""Exchanges of tensors on the default process group; every process calls them in the same order.

They fail where a process is gone: at once where the backend notices it, else after the timeout that
``torch.distributed.init_process_group`` was given.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .lost import exchanging
from .shares import Shares

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13


def exchange_device(device: torch.device) -> torch.device:
    """Where tensors travel that are on ``device``: gloo takes them from the CPU, other backends from the GPU."""
    if dist.get_backend() == "gloo":
        return torch.device("cpu")
    return device if device.type == "cuda" else torch.device("cuda", torch.cuda.current_device())


def gather_equal(own: Tensor) -> Tensor:  # (...) -> (W, ...)
    """What each process has, which is of the same shape everywhere."""
    everyone = own.new_empty((dist.get_world_size(), *own.shape))
    if own.numel() > 0:  # as bytes, for not every backend knows every dtype
        with exchanging("exchanging rows"):
            _all_gather(everyone.flatten().view(torch.uint8), own.contiguous().flatten().view(torch.uint8))
    return everyone


def gather_rows(rows: Tensor, shares: Shares) -> Tensor:  # (B, ...) -> (C, ...)
    """The rows of every rank, in rank order; not differentiable."""
    padded, missing = rows.detach(), max(shares.sizes) - shares.rows
    if missing:
        padded = torch.cat([padded, padded.new_zeros((missing, *rows.shape[1:]))])
    gathered = gather_equal(padded)
    if len(set(shares.sizes)) == 1:
        return gathered.flatten(0, 1)
    return torch.cat([part[:size] for part, size in zip(gathered, shares.sizes)])


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over ranks, added in rank order, so that every rank and every run has the same bits."""
    return gather_equal(values).sum(dim=0)


def reduce_over_ranks(values: Tensor, operation: Any) -> Tensor:
    """``values``, reduced in place by an operation that has no order: a maximum or a minimum, or a sum of integers."""
    with exchanging("exchanging values"):
        dist.all_reduce(values, operation)
    return values


def send_to_all(rows: Tensor, owner: int) -> None:
    """Contiguous ``rows`` of the owner into those of every rank."""
    if rows.numel() > 0:
        with exchanging("exchanging rows"):
            dist.broadcast(rows.view(torch.uint8), owner)


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
    def forward(ctx: Any, rows: Tensor, shares: Shares) -> Tensor:
        ctx.shares = shares
        return gather_rows(rows, shares)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative()
        return ctx.shares.own(sum_over_ranks(grad)), None


class SumOverRanks(torch.autograd.Function):
    """The sum of a value over ranks; each rank's gradient is that of its own part."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return sum_over_ranks(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        refuse_second_derivative()
        return grad
