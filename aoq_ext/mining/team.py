"""The processes that share a mining job: what one of them cannot do, none goes on with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class _Failure:
    message: str


class Team:
    """All ranks of the default process group, or this process alone.

    Between two meetings each works for itself, so a rank that is gone is noticed at the next one: at once where the
    backend sees its connection close, else after the timeout that ``init_process_group`` was given, or ``timeout``
    where that backend cannot exchange objects on the CPU.
    """

    def __init__(self, timeout: timedelta | None = None) -> None:
        self.rank, self.world = 0, 1
        self._group: Any = None
        if dist.is_available() and dist.is_initialized():
            self.rank, self.world = dist.get_rank(), dist.get_world_size()
            if self.world > 1 and dist.get_backend() != "gloo":  # objects travel on the CPU
                self._group = dist.new_group(backend="gloo", timeout=timeout)
        elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise RuntimeError(
                f"a launcher started WORLD_SIZE={os.environ['WORLD_SIZE']} processes, but torch.distributed is not "
                "initialised; call torch.distributed.init_process_group first"
            )

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def meet(self, stage: str, work: Callable[[], T]) -> list[T]:
        """Do ``work`` on every rank and collect what it returned, in rank order; raises on every rank if one raises."""
        if self.world == 1:
            return [work()]
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

    def _exchange(self, stage: str, result: Any) -> list[Any]:
        everyone: list[Any] = [None] * self.world
        try:
            dist.all_gather_object(everyone, result, group=self._group)
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} lost another rank while {stage}: it ended, or did not answer within the timeout "
                f"({' '.join(str(error).split())[:200]}); the same command continues the work"
            ) from error
        return everyone
