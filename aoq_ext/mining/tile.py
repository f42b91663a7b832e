"""The step that all mining is made of: a tile of scores is merged into the lists of its rows and of its columns."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..ops import calls
from . import fused, plain
from .side import Side

_LONGEST_ON_CUDA = 8192  # kMostListed of csrc/cuda/mining/mining_params.h: a list is sorted in shared memory


def mine_tile(
    anchors: Side,  # n rows
    candidates: Side,  # m rows, same width, dtype and device
    anchor_keys: Tensor,  # (n, k) int64, sorted, greatest first; NO_KEY where there are fewer
    candidate_keys: Tensor | None = None,  # (m, k') likewise, or None: one direction alone
) -> tuple[Tensor, Tensor | None]:
    """The lists after this tile, exactly.

    The score of a pair is `aoq_ext.mining.plain.ordered_dot` of its rows, rounded to float32. List i of the anchors
    becomes the k greatest of its own keys and the keys (score, candidate) of all candidates of the tile that do not
    belong to anchor i and score at most ``anchors.caps[i]``; list j of the candidates likewise with keys (score,
    anchor) and ``candidates.caps[j]``. The result is defined to the bit, so tiles may come in any order, on any device.
    """
    longest = max(anchor_keys.shape[1], 0 if candidate_keys is None else candidate_keys.shape[1])
    if has_kernel(anchors.rows.device, anchors.rows.dtype, longest):
        if anchors.rows.device.type == "cpu":  # half precision is exact in float32
            anchors, candidates = (replace(side, rows=side.rows.float()) for side in (anchors, candidates))
        return fused.mine_tile(anchors, candidates, anchor_keys, candidate_keys)
    return plain.mine_tile(anchors, candidates, anchor_keys, candidate_keys)


def has_kernel(device: torch.device, dtype: torch.dtype, longest: int = 1) -> bool:
    """Whether the fused operator takes rows of that kind and lists of that length; plain PyTorch serves the others."""
    if dtype == torch.float64:
        return False
    on_cuda = (
        device.type == "cuda"
        and longest <= _LONGEST_ON_CUDA
        and calls.has_kernel(torch.empty(0, dtype=torch.float32, device=device))
    )
    return device.type == "cpu" or on_cuda
