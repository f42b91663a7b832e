"""A tile by the compiled operator; `plain` is the same in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import library  # noqa: F401  (registers the operator)
from .side import Side


def mine_tile(
    anchors: Side,
    candidates: Side,
    anchor_keys: Tensor,  # (n, k)
    candidate_keys: Tensor | None,  # (m, k')
    arithmetic: int = 0,  # of the fast product; 0: the fastest, 1: float32, 2: bfloat16, 3: torch's
    panel: int = 0,  # candidates in a panel of scores; 0: as fits the cache
) -> tuple[Tensor, Tensor | None]:
    """As `aoq_ext.mining.tile.mine_tile`, for the devices and dtypes that have a kernel."""
    labels = [(None, None) if side.labels is None else side.labels.tensors() for side in (anchors, candidates)]
    found: tuple[Tensor, Tensor] = torch.ops.aoq.mine_tile(
        anchors.rows, candidates.rows, anchor_keys, candidate_keys, anchors.first, candidates.first,
        anchors.ids, candidates.ids, *labels[0], *labels[1], anchors.caps, candidates.caps,
        _matmul_input_rounding(), arithmetic, panel,
    )  # fmt: skip
    return found[0], None if candidate_keys is None else found[1]


def _matmul_input_rounding() -> float:
    """How far torch may round the inputs of a float32 product on the CPU: not at all, or to bfloat16 if allowed to."""
    exact = torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee")  # type: ignore[attr-defined]
    return 0.0 if exact else 2.0**-8
