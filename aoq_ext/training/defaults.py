"""The defaults of torch that a run's modules and optimizer are made by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def torch_defaults() -> Iterator[None]:
    """float32 on the CPU, whatever the program around it chose, so that a run is the same in every program."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        # A device's context costs time in every call of torch.
        with nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
