"""Several processes for one test. They fork from a server that has imported what they need, and has no threads."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

multiprocessing.set_forkserver_preload(["aoq_ext.mining", "aoq_ext.training", "torch.distributed"])


def launch(world: int, body: Callable[..., None], *arguments: Any, timeout: float | None = None) -> None:
    """Run ``body(rank, *arguments)`` in so many processes; an exception of any of them is raised here.

    Args:
        timeout: seconds that one waits for another; None: as torch.distributed does.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = (world, f"file://{folder}/store", timeout, body, arguments)
        mp.start_processes(_start, started, nprocs=world, start_method="forkserver")


def _start(
    rank: int, world: int, store: str, timeout: float | None, body: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0",
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
    }  # fmt: skip
    # Joined once: whoever joins again and again at one address may meet the store of the last time, as it closes.
    patience = None if timeout is None else timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=patience)
    body(rank, *arguments)
    assert dist.is_initialized()  # a group that was there before a run is there after it
    dist.destroy_process_group()
