"""What encoders return, whatever it is made of: an embedding a row, or features with their lengths.

Features are a tensor with one row an item, or a tuple, named tuple, dict or dataclass of such; the second dimension of
a tensor may be padded. Everything that only moves features around is here, so that nothing else looks inside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

Features = Any


def leaves(features: Features) -> list[Tensor]:
    """The tensors in it, in a fixed order."""
    if isinstance(features, Tensor):
        return [features]
    return [leaf for part in _parts(features) for leaf in leaves(part)]


def rebuild(features: Features, tensors: Sequence[Tensor]) -> Features:
    """The same structure with other tensors in it, in the order of `leaves`."""
    rest = iter(tensors)
    return transform(features, lambda _: next(rest))


def transform(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    """The same structure, with ``change`` done to every tensor."""
    if isinstance(features, Tensor):
        return change(features)
    parts = [transform(part, change) for part in _parts(features)]
    if isinstance(features, dict):
        return dict(zip(features, parts, strict=True))
    if isinstance(features, tuple) and hasattr(features, "_fields"):
        return type(features)(*parts)
    if isinstance(features, (tuple, list)):
        return type(features)(parts)
    if features is None:
        return None
    return replace(features, **{field.name: part for field, part in zip(fields(features), parts, strict=True)})


def split(features: Features, sizes: Sequence[int]) -> list[Features]:
    """Blocks of so many rows."""
    parts = zip(*(leaf.split(list(sizes)) for leaf in leaves(features)), strict=True)
    return [rebuild(features, part) for part in parts]


def concatenate(parts: Sequence[Features]) -> Features:
    """The rows of all parts; where these are padded to different lengths, to the longest."""
    columns = zip(*map(leaves, parts), strict=True)
    return rebuild(parts[0], [_concatenate(list(column)) for column in columns])


def pad(tensor: Tensor, length: int) -> Tensor:
    """(P, L, ...) -> (P, length, ...), zeros beyond L"""
    if tensor.shape[1] == length:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(len(tensor), length - tensor.shape[1], *tensor.shape[2:])], dim=1)


def full_precision(features: Features) -> Features:
    """Half precision, as autocast leaves it, made float32: scores are never compared in less."""
    return transform(features, lambda leaf: leaf.float() if leaf.dtype in (torch.float16, torch.bfloat16) else leaf)


def _concatenate(tensors: list[Tensor]) -> Tensor:
    if tensors[0].dim() > 1 and len({tensor.shape[1] for tensor in tensors}) > 1:
        longest = max(tensor.shape[1] for tensor in tensors)
        tensors = [pad(tensor, longest) for tensor in tensors]
    return torch.cat(tensors)


def _parts(features: Features) -> list[Features]:
    if features is None:
        return []
    if isinstance(features, dict):
        return list(features.values())
    if isinstance(features, (tuple, list)):
        return list(features)
    if is_dataclass(features):
        return [getattr(features, field.name) for field in fields(features)]
    raise TypeError(f"features must be tensors, or tuples, dicts or dataclasses of them, got {type(features).__name__}")
