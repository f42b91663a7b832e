"""How many numbers cross attention holds at once, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aoq_ext.encoders import CrossAttention
from tests.encoders.test_cross_attention import DIRECTIONS, leaves


class LiveNumbers(TorchDispatchMode):
    """The most numbers that tensors made since have held at once, those that autograd keeps included."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.storages[StorageWeakRef(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        self.storages = {storage: size for storage, size in self.storages.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self.storages.values()) // 8)
        return result


def peak_numbers(images: Tensor, texts: Tensor, lengths: Tensor, few: bool, **options: Any) -> int:
    """Of a forward and a backward pass."""
    inputs = leaves(images, texts)
    with LiveNumbers() as live:
        scores = CrossAttention(**options)(*inputs, lengths)
        (scores.diagonal() if few else scores).sum().backward()
    return live.peak


@pytest.mark.parametrize("few", [False, True], ids=["blocks", "pairs"])
@pytest.mark.parametrize("focal", [None, "prob"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_memory_is_bounded(direction: str, focal: str | None, few: bool) -> None:
    """By chunk_elements times some number, beyond what a batch holds anyway; and by the products that are kept."""
    images, texts = (torch.randn(24, size, 4, dtype=torch.float64) for size in (8, 10))
    lengths = torch.tensor([10, 9, 7, 4] * 6)
    products = 24 * 8 * int(lengths.sum())
    options: dict[str, Any] = {"direction": direction, "focal": focal}
    small, large, whole = (
        peak_numbers(images, texts, lengths, few, **options, chunk_elements=size, kept_elements=0)
        for size in (1000, 4000, 2 * products)
    )
    assert large - small <= (19 if direction == "both" else 13) * 3000
    assert whole - small > 6 * products  # what blocks save
    kept = peak_numbers(images, texts, lengths, few, **options, chunk_elements=1000)
    assert 0.5 * products < kept - small < 1.3 * products


def test_memory_beside_blocks_is_a_few_times_the_features() -> None:
    """Inputs, gradients and twice the features; the rest is small here."""
    images, texts = torch.randn(20, 6, 512), torch.randn(40, 30, 512)
    lengths = torch.randint(10, 25, (40,))
    features = (images.numel() + texts.numel()) / 2  # as `LiveNumbers` counts: float64s
    assert peak_numbers(images, texts, lengths, few=False, chunk_elements=1000, kept_elements=0) <= 4.1 * features
