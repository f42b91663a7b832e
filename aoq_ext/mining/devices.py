"""Where mining can compute."""

from __future__ import annotations

import torch

from .._sources import Source, TensorSource


def checked_device(device: torch.device | str) -> torch.device:
    """The CPU, or a CUDA device that is there."""
    expected = "cpu, or cuda where there is a GPU"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be {expected}, got {device!r}") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be {expected}, got {str(found)!r}")
    if found.type == "cuda" and (found.index or 0) >= (count := torch.cuda.device_count()):
        there = f"with {count} GPU{'' if count == 1 else 's'}" if count else "where torch sees no GPU"
        raise ValueError(f"device must be {expected}, got {str(found)!r} {there}")
    return found


def device_of(source: Source) -> torch.device:
    """Where the rows are; the CPU for files and arrays."""
    return source.tensor.device if isinstance(source, TensorSource) else torch.device("cpu")
