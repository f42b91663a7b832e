"""The processes of the default process group as one, and their stand-in where a process is alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .lost import exchanging
from .shares import Shares
from .tensors import gather_rows, reduce_over_ranks

T = TypeVar("T")
_BUCKET = 1 << 24  # elements that travel together


@dataclass(frozen=True)
class _Failure:
    message: str


class Processes:
    """All ranks of the default process group. Between two exchanges each works for itself, so one that is gone is
    noticed at the next one, as a `LostProcessError`."""

    def __init__(self, rank: int, world: int, objects: Any = None) -> None:
        self.rank, self.world = rank, world
        self._objects = objects  # the group through which Python objects travel; None: the default one

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world == 1

    def sizes(self, count: int) -> list[int]:
        """How many of ``count`` items each process takes, in rank order; they differ by one at most."""
        return [count // self.world + (rank < count % self.world) for rank in range(self.world)]

    def share(self, count: int) -> slice:
        """Which of ``count`` items this process takes. In rank order, the shares are the items in their order."""
        shares = Shares(tuple(self.sizes(count)), self.rank)
        return slice(shares.first, shares.first + shares.rows)

    def gather(self, rows: Tensor, sizes: list[int] | None = None) -> Tensor:
        """(b, ...) -> (B, ...): the rows of every process in rank order; ``sizes`` of them if known. No gradient."""
        if sizes is None:
            sizes = self.meet("exchanging rows", lambda: len(rows))
        return gather_rows(rows, Shares(tuple(sizes), self.rank))

    def meet(self, stage: str, work: Callable[[], T]) -> list[T]:
        """Do ``work`` on every rank and collect what it returned, in rank order; raises on every rank if one raises."""
        try:
            result: Any = work()
        except Exception as error:
            self._exchange(stage, _Failure(f"{type(error).__name__}: {error}"))
            raise
        everyone = self._exchange(stage, result)
        for rank, other in enumerate(everyone):
            if isinstance(other, _Failure):
                raise RuntimeError(f"rank {rank} failed while {stage}: {other.message}")
        return everyone

    def together(self, stage: str, work: Callable[[], T]) -> T:
        """Do ``work`` on every rank, each with a result of its own; raises on every rank if one raises."""
        own: list[T] = []
        self.meet(stage, lambda: own.append(work()))
        return own[0]

    def by_leader(self, stage: str, work: Callable[[], T]) -> T:
        """Do ``work`` in the leading process; all wait for it and get what it returned."""
        result: Any = self.meet(stage, lambda: work() if self.leads else None)[0]
        return result  # type: ignore[no-any-return]

    @torch.no_grad()
    def sum_gradients(self, model: nn.Module) -> None:
        """Add up the gradients of every parameter; one that no process has a gradient for keeps none."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            return
        used = [parameter.grad is not None for parameter in parameters]
        anywhere = torch.tensor(used, dtype=torch.int32, device=parameters[0].device)
        reduce_over_ranks(anywhere, dist.ReduceOp.MAX)
        gradients = []
        for parameter, flag in zip(parameters, anywhere.tolist(), strict=True):
            if flag and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if flag:
                assert parameter.grad is not None
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            _together(bucket, "summing gradients", dist.all_reduce)

    @torch.no_grad()
    def copy_from_leader(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the leader's values."""
        for bucket in _buckets(tensors):
            _together(bucket, "copying weights", lambda flat: dist.broadcast(flat, 0))

    def _exchange(self, stage: str, result: Any) -> list[Any]:
        everyone: list[Any] = [None] * self.world
        with exchanging(stage):
            dist.all_gather_object(everyone, result, group=self._objects)
        return everyone


class _Alone(Processes):
    """A process without others: it has everything, and exchanges nothing."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def gather(self, rows: Tensor, sizes: list[int] | None = None) -> Tensor:
        return rows

    def meet(self, stage: str, work: Callable[[], T]) -> list[T]:
        return [work()]

    def sum_gradients(self, model: nn.Module) -> None:
        pass

    def copy_from_leader(self, tensors: Iterable[Tensor]) -> None:
        pass


ALONE: Processes = _Alone()


def are_joined() -> bool:
    """Whether there are other processes; RuntimeError where a launcher started some and nobody joined them."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() > 1
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            f"a launcher started WORLD_SIZE={os.environ['WORLD_SIZE']} processes, but torch.distributed is not "
            "initialised; call torch.distributed.init_process_group first"
        )
    return False


def joined(timeout: int | None = None) -> Processes:
    """The default process group, or this process alone.

    Args:
        timeout: seconds after which a process that does not answer counts as lost, where the backend of the group
            cannot exchange objects and another is started for them; None: that backend's usual ones.
    """
    if not are_joined():
        return ALONE
    objects = None
    if dist.get_backend() != "gloo":  # objects travel on the CPU
        objects = dist.new_group(backend="gloo", timeout=None if timeout is None else timedelta(seconds=timeout))
    return Processes(dist.get_rank(), dist.get_world_size(), objects)


@contextmanager
def parting() -> Iterator[None]:
    """Leave, when the work is done, the processes that were joined for it.

    All leave together: a process that ends while it still has connections to the others may be aborted by its threads.
    """
    was_joined = dist.is_available() and dist.is_initialized()
    yield
    if not was_joined and dist.is_available() and dist.is_initialized():
        with exchanging("parting"):
            dist.barrier()
        dist.destroy_process_group()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Lists of tensors of one dtype, each with no more than a few elements beyond ``_BUCKET``."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = by_dtype.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(member.numel() for member in bucket) >= _BUCKET:
            yield by_dtype.pop(tensor.dtype)
    yield from by_dtype.values()


def _together(tensors: list[Tensor], stage: str, exchange: Callable[[Tensor], object]) -> None:
    """One exchange for many tensors, which get its result."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with exchanging(stage):
        exchange(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
