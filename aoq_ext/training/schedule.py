"""The learning rate as a pure function of the step: nothing to store, nothing to get out of step on resuming."""

from __future__ import annotations

import math

from aoq_ext.training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """For step ``step`` (from 0) of ``steps``."""
    progress = step / steps
    if config.schedule == "step":
        return config.lr * (0.1 if progress >= config.drop_at else 1.0)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr
