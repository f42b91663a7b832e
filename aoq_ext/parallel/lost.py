"""A process that is gone: the one exception that the others get, wherever they notice it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

_PATIENCE = 2.0  # seconds in which the others may say that they are there


class LostProcessError(RuntimeError):
    """Another process ended, or did not answer within the timeout of the process group.

    Attributes:
        rank: the process that noticed.
        silent: those that did not say since that they are there; empty where that could not be asked.
    """

    def __init__(self, message: str, rank: int, silent: tuple[int, ...]) -> None:
        super().__init__(message)
        self.rank, self.silent = rank, silent

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.rank, self.silent)


@contextmanager
def exchanging(stage: str) -> Iterator[None]:
    """Around every exchange. What is sent was checked before, so that what fails here is another process."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        rank, world = dist.get_rank(), dist.get_world_size()
        silent = _silent(rank, world)
        who = f"rank {', '.join(map(str, silent))}" if silent else "another rank"
        raise LostProcessError(
            f"rank {rank} of {world} lost {who} while {stage}: it ended, or did not answer in time "
            f"({' '.join(str(error).split()):.200})",
            rank,
            silent,
        ) from error


@contextmanager
def advising(cure: str) -> Iterator[None]:
    """Say with a lost process how the work goes on."""
    try:
        yield
    except LostProcessError as error:
        raise LostProcessError(f"{error}; {cure}", error.rank, error.silent) from error


def _silent(rank: int, world: int) -> tuple[int, ...]:
    """Those that do not notice it too: every process that does says so in the store by which they met."""
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set(f"aoq_ext/noticed/{rank}", "")
        silent = [other for other in range(world) if other != rank]
        deadline = time.monotonic() + _PATIENCE
        while silent and time.monotonic() < deadline:
            time.sleep(0.05)
            silent = [other for other in silent if not store.check([f"aoq_ext/noticed/{other}"])]
    except (RuntimeError, ValueError, OSError):  # the store is gone too
        return ()
    return tuple(silent)
