"""How the processes that train one model together start.

Every process holds the whole model and the whole data set and takes the same share of every batch; the losses take
negatives from all of them (``gather_distributed``). Gradients are *added up* over the processes, which is what one
process on the whole batch has, so nothing is averaged and nothing must be scaled back.
"""

from __future__ import annotations

import os
import warnings
from datetime import timedelta
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from aoq_ext.training.config import ConfigError, TrainConfig


class _Replicas(DDPStrategy):
    """Fabric's data parallelism without its wrapper: `Processes.sum_gradients` does the wrapper's work after the last
    micro-batch. The wrapper averages, and cannot follow a backward pass that is done in parts, from features."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        return module


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
