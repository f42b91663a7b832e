"""The processes that train one model together: who does what, what they exchange, and how they start.

Every process holds the whole model and the whole data set and takes the same share of every batch; the losses take
negatives from all of them (``gather_distributed``). Gradients are *added up* over the processes, which is what one
process on the whole batch has, so nothing is averaged and nothing must be scaled back.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from aoq_ext._collectives import Batch, gather_rows
from aoq_ext.mining.team import Team
from aoq_ext.training.config import ConfigError, TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
_BUCKET = 1 << 24  # elements that travel together
# In what backends say of a lost peer; they also raise RuntimeErrors for wrong arguments, which say something else.
_SIGNS_OF_LOSS = re.compile(
    r"lost another rank|connection (reset|refused|closed)|closed by peer|broken pipe|timed? ?out|watchdog|"
    r"nccl(remote|system|internal)error|remote process|socket closed|aborted",
    re.IGNORECASE,
)


class LostProcessError(RuntimeError):
    """Another process is gone, or did not answer in time."""


class _Replicas(DDPStrategy):
    """Fabric's data parallelism without its wrapper: `Processes.sum_gradients` does the wrapper's work after the last
    micro-batch. The wrapper averages, and cannot follow a backward pass that is done in parts, from features."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        return module


@contextmanager
def parting() -> Iterator[None]:
    """Leave, when the work is done, the processes that were joined for it.

    All leave together: a process that ends while it still has connections to the others may be aborted by its threads.
    """
    was_joined = dist.is_available() and dist.is_initialized()
    yield
    if not was_joined and dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def start(config: TrainConfig) -> Fabric:
    """Join the processes that a launcher such as torchrun started; alone where there is none."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if config.batch_size < world:
        raise ConfigError(
            f"batch_size: expected at least one pair for each of the {world} processes, got {config.batch_size}"
        )
    options: dict[str, Any] = {"devices": 1}
    if world > 1:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        timeout = timedelta(seconds=config.process_timeout)
        options = {"devices": local, "num_nodes": world // local, "strategy": _Replicas(timeout=timeout)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*AMP with fp16 is not supported on CPU")  # refused below
        fabric = Fabric(accelerator=config.accelerator, precision=config.precision, **options)
    if fabric.strategy.precision.precision != config.precision:
        raise ConfigError(f"precision: expected 32-true or bf16-mixed on the CPU, got {config.precision}")
    if world > 1:
        fabric.launch()
    return fabric


class Processes:
    """The default process group, or this process alone.

    Args:
        timeout: seconds after which a process that does not answer counts as lost; None: the backend's usual ones.
    """

    def __init__(self, timeout: int | None = None) -> None:
        self.team = Team(None if timeout is None else timedelta(seconds=timeout))
        self.rank, self.world = self.team.rank, self.team.world

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
        sizes = self.sizes(count)
        first = sum(sizes[: self.rank])
        return slice(first, first + sizes[self.rank])

    def gather(self, rows: Tensor, sizes: list[int] | None = None) -> Tensor:
        """(b, ...) -> (B, ...): the rows of every process in rank order; ``sizes`` of them if known. No gradient."""
        if self.alone:
            return rows
        if sizes is None:
            sizes = self.meet("exchanging rows", lambda: len(rows))
        return gather_rows(rows, Batch(tuple(sizes), self.rank))

    def meet(self, stage: str, work: Callable[[], T]) -> list[T]:
        """Do ``work`` everywhere and wait for all; if one raises, so do all. -> what each returned"""
        return self.team.meet(stage, work)

    def by_leader(self, stage: str, work: Callable[[], T]) -> T:
        """Do ``work`` in the leading process; all wait for it and get what it returned."""
        result: Any = self.meet(stage, lambda: work() if self.leads else None)[0]
        return result  # type: ignore[no-any-return]

    @torch.no_grad()
    def sum_gradients(self, model: nn.Module) -> None:
        """Add up the gradients of every parameter; one that no process has a gradient for keeps none."""
        if self.alone:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            return
        used = torch.tensor(
            [parameter.grad is not None for parameter in parameters], dtype=torch.bool, device=parameters[0].device
        )
        used = used.int()
        dist.all_reduce(used, dist.ReduceOp.MAX)
        gradients = []
        for parameter, flag in zip(parameters, used.tolist(), strict=True):
            if flag and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if flag:
                assert parameter.grad is not None
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            _together(bucket, lambda flat: dist.all_reduce(flat))

    @torch.no_grad()
    def copy_from_leader(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the leader's values."""
        if not self.alone:
            for bucket in _buckets(tensors):
                _together(bucket, lambda flat: dist.broadcast(flat, 0))


@contextmanager
def explained(processes: Processes) -> Iterator[None]:
    """Say what a failed exchange means: a process that ended or hangs, not a fault of the one that noticed."""
    try:
        yield
    except RuntimeError as error:
        if processes.alone or not _is_broken_exchange(error):
            raise
        raise LostProcessError(
            f"process {processes.rank} of {processes.world} lost another one, which ended or did not answer within "
            f"process_timeout; its own message, if it left any, says why. The same command with --resume continues "
            f"from the last checkpoint ({' '.join(str(error).split()):.200})"
        ) from error


def _is_broken_exchange(error: RuntimeError) -> bool:
    return bool(_SIGNS_OF_LOSS.search(str(error)))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Lists of tensors of one dtype, each with no more than a few elements beyond ``_BUCKET``."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = by_dtype.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(member.numel() for member in bucket) >= _BUCKET:
            yield by_dtype.pop(tensor.dtype)
    yield from by_dtype.values()


def _together(tensors: list[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """One exchange for many tensors, which get its result."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    exchange(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
