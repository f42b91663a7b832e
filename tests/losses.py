"""What the tests of the loss share: operands, the option grid, an oracle in plain Python, and error measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aoq_ext import functional, reference

OBJECTIVES = ("online_triplet", "offline_triplet", "offline_quintuplet", "adaptive_quintuplet")
ONLINE = ("hardest", "semihard", "all")
SIMILARITIES = ("dot", "cosine", "order")
REDUCTIONS = ("sum", "mean", "none")
HALVES = (torch.float16, torch.bfloat16)


def make_operands(
    count: int, width: int, candidates: int = 0, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """image, text, hard_image, hard_text, hard_text_image, hard_image_text: unit rows, not too unlike one another."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, candidates, width) if candidates else (count, width)
    shapes = [(count, width)] * 2 + [shape] * 4
    rows = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    rows[1] = rows[1] + rows[0]  # a pair scores high, as in training
    return [torch.nn.functional.normalize(row, dim=-1).to(dtype) for row in rows]


def run(loss: Callable[..., Tensor], operands: Sequence[Tensor], *arguments: Any, **options: Any) -> list[Tensor]:
    """The loss and the gradient by every operand (zeros where there is none)."""
    leaves = [operand.detach().requires_grad_() for operand in operands]
    value = loss(*leaves, *arguments, **options)
    weight = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    (value * weight).sum().backward()
    return [value.detach()] + [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def fused(operands: Sequence[Tensor], *arguments: Any, **options: Any) -> list[Tensor]:
    return run(functional.adaptive_quintuplet_loss, operands, *arguments, **options)


def oracle(operands: Sequence[Tensor], *arguments: Any, **options: Any) -> list[Tensor]:
    return run(reference.adaptive_quintuplet_loss, operands, *arguments, **options)


def error(result: Tensor, truth: Tensor) -> float:
    """Largest difference, relative to the largest magnitude of the truth."""
    if truth.numel() == 0:
        return 0.0
    scale = max(truth.abs().max().item(), 1e-30)
    return (result.double() - truth.double()).abs().max().item() / scale


def by_hand(
    scores: list[list[float]],
    a: list[float],
    b: list[float],
    c: list[float],
    d: list[float],
    groups: list[int] | None = None,
    *,
    objective: str = "adaptive_quintuplet",
    online: str = "hardest",
    margin_online: float = 0.2,
    margin_offline: float = 0.0,
    alpha: float = 0.3,
    beta: float = 1.5,
) -> list[float]:
    """L_i of every pair, from the formulae, one number at a time, without torch."""
    count = len(scores)
    groups = groups or list(range(count))
    rung = OBJECTIVES.index(objective)
    losses = []
    for i in range(count):
        p, loss = scores[i][i], 0.0
        text_negatives = [scores[i][j] for j in range(count) if groups[j] != groups[i]]
        image_negatives = [scores[j][i] for j in range(count) if groups[j] != groups[i]]
        for negatives, offline in ((text_negatives, a[i]), (image_negatives, b[i])):
            if online == "semihard":
                negatives = [s for s in negatives if s < p]
            if not negatives:
                continue
            hardest = max(negatives)
            weight = beta - (offline - hardest) / alpha if rung == 3 else 1.0
            chosen = negatives if online == "all" else [hardest]
            loss += weight * math.fsum(max(0.0, margin_online + s - p) for s in chosen)
        for offline in [a[i], b[i]] * (rung >= 1) + [c[i], d[i]] * (rung >= 2):
            loss += max(0.0, margin_offline + offline - p)
        losses.append(loss)
    return losses
