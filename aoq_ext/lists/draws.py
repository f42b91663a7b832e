"""Random draws as pure functions of integers, on any device, with the same bits everywhere."""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as int64, and so on
_FIRST_FACTOR = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_SECOND_FACTOR = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def mix(state: Tensor) -> Tensor:
    """int64 -> int64: a step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), on the bits of two's complement."""
    state = state + _GOLDEN
    state = (state ^ _shift(state, 30)) * _FIRST_FACTOR
    state = (state ^ _shift(state, 27)) * _SECOND_FACTOR
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in: torch's own shift repeats the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def state_of(seed: int, *parts: int | Tensor) -> Tensor:
    """What to draw from at a place that integers name, some of them perhaps a tensor of int64."""
    state = mix(torch.tensor(seed, dtype=torch.int64, device="cpu"))
    for part in parts:
        state = mix(state ^ part)
    return state


def draw(state: Tensor, number: int) -> Tensor:
    """Uniform in [0, 2³²): independent for every ``number``."""
    return _shift(mix(state ^ number), 32)


def place(drawn: Tensor, count: Tensor | int) -> Tensor:
    """Place u of a list of ``count`` < 2³¹, u = drawn / 2³²; in integers, so that it never rounds up to ``count``."""
    return (drawn * count) >> 32
