"""What every process must have alike, checked before any of them computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from .shares import Shares
from .tensors import exchange_device, gather_equal

_REFUSED = -1
_CAPACITY = 24  # numbers that travel; the same on every rank, whatever its arguments


def agree(check: Callable[[], None], describe: Callable[[], Mapping[str, int]], model: Tensor) -> Shares:
    """Check this rank's arguments, then that all ranks agree on them; every rank raises where one does.

    ``describe`` returns the number of rows under ``"rows"`` and, under the names of arguments, what must be the same on
    every rank. The ranks talk where ``model`` is.
    """
    device = exchange_device(model.device) if isinstance(model, Tensor) else torch.device("cpu")
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
    return Shares(tuple(numbers[rows] for numbers in everyone), rank)


def _exchange(numbers: list[int], device: torch.device) -> list[list[int]]:
    assert len(numbers) <= _CAPACITY
    own = torch.tensor([*numbers, *[0] * (_CAPACITY - len(numbers))], dtype=torch.int64, device=device)
    return [list(map(int, row)) for row in gather_equal(own).tolist()]
