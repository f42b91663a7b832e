"""Sequences of different lengths in one tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_of(lengths: Tensor, size: int) -> Tensor:
    """lengths: (B,) -> (B, size) bool, true where there is no padding"""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def padding_mask(features: Tensor, lengths: Tensor | None) -> Tensor | None:
    """features: (B, F, ...); lengths: (B,), None where nothing is padded -> `mask_of` them: (B, F), or None"""
    return None if lengths is None else mask_of(lengths, features.shape[1])


def clear(features: Tensor, mask: Tensor | None) -> Tensor:
    """features: (B, F, D); mask: (B, F), or None where nothing is padded -> contiguous, with zeros where padded"""
    return (features if mask is None else features.masked_fill(~mask.unsqueeze(-1), 0.0)).contiguous()


def padded_to(size: int, features: Tensor) -> Tensor:
    """features: (B, F, ...) -> (B, size, ...), with zeros beyond F"""
    if features.shape[1] == size:
        return features
    more = features.new_zeros(len(features), size - features.shape[1], *features.shape[2:])
    return torch.cat([features, more], dim=1)


def check_features(images: Tensor, texts: Tensor) -> None:
    """images: (N, R, D); texts: (M, L, D)"""
    for name, features, shape in (("images", images, "(N, R, D)"), ("texts", texts, "(M, L, D)")):
        if features.dim() != 3 or not features.is_floating_point():
            raise ValueError(
                f"{name}: expected floating-point features of shape {shape}, "
                f"got {features.dtype} of shape {tuple(features.shape)}"
            )
    if (texts.shape[2], texts.dtype, texts.device) != (images.shape[2], images.dtype, images.device):
        raise ValueError(
            f"texts: expected features as wide as images, of the same dtype and on the same device "
            f"({images.shape[2]}, {images.dtype}, {images.device}), got {texts.shape[2]}, {texts.dtype}, {texts.device}"
        )


def check_lengths(name: str, lengths: Tensor, features: Tensor) -> list[int]:
    """lengths: (B,); features: (B, F, ...) -> the lengths"""
    if lengths.shape != features.shape[:1] or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(
            f"{name}: expected integers of shape ({len(features)},), "
            f"got {lengths.dtype} of shape {tuple(lengths.shape)}"
        )
    values: list[int] = lengths.tolist()
    if values and not (min(values) >= 1 and max(values) <= features.shape[1]):
        raise ValueError(f"{name}: expected integers from 1 to {features.shape[1]}, got {min(values)} to {max(values)}")
    return values
