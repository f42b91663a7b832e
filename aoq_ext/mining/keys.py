"""(score, index) as one integer, and lists of the k greatest.

A key is an int64 whose order is: higher score first, then lower index; as in csrc/math/top_k_key.h. Keys are unique, so
torch.topk has no ties to break in its own way, and a list of the k greatest, sorted, is the same whatever the order in
which parts of it were found.
"""

from __future__ import annotations

import torch
from torch import Tensor

NO_KEY = torch.iinfo(torch.int64).min  # below every key; fills a list that is not full
MOST_INDEX = (1 << 32) - 2  # indices have 32 bits while they compete

_INDEX_MASK = 0xFFFFFFFF
_MAGNITUDE = 0x7FFFFFFF


def no_keys(rows: int, k: int, device: torch.device | str = "cpu") -> Tensor:
    """Empty lists (rows, k)."""
    return torch.full((rows, k), NO_KEY, dtype=torch.int64, device=device)


def pack(scores: Tensor, index: Tensor) -> Tensor:
    """Keys int64 of scores, float32, and their indices, int64 in [0, 2³² − 2]; the shapes must broadcast."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: the two zeros are equal
    order = torch.where(bits < 0, bits ^ _MAGNITUDE, bits).long()
    return (order << 32) | (_INDEX_MASK - index)


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Indices int64 and scores float32 of keys, -1 and -inf for `NO_KEY`."""
    order = (keys >> 32).int()
    scores = torch.where(order < 0, order ^ _MAGNITUDE, order).view(torch.float32)
    indices = _INDEX_MASK - (keys & _INDEX_MASK)
    missing = keys == NO_KEY
    return indices.masked_fill(missing, -1), scores.masked_fill(missing, -torch.inf)


def merge(k: int, *lists: Tensor) -> Tensor:
    """The k greatest keys of each row (n, k), sorted, of lists (n, any) that have no key in common."""
    together = torch.cat(lists, dim=1)
    if together.shape[1] < k:
        together = torch.nn.functional.pad(together, (0, k - together.shape[1]), value=NO_KEY)
    return together.topk(k, dim=1).values
