"""A slightly different view of the same images, so that an encoder does not learn them by heart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomView(nn.Module):
    """While training: shift, scale, turn and recolour each image at random. In evaluation: nothing.

    Args:
        geometry: how far an image may move: shifts up to this fraction of half its size, scales between
            1 - geometry and 1 + geometry, turns up to this many radians.
        colour: each channel's contrast is scaled by up to 1 ± colour and its level moved by up to ± colour / 2.
    """

    def __init__(self, geometry: float = 0.0, colour: float = 0.0) -> None:
        super().__init__()
        self.geometry = geometry
        self.colour = colour

    def extra_repr(self) -> str:
        return f"geometry={self.geometry}, colour={self.colour}"

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W), floating point -> the same shape"""
        if not self.training:
            return images
        if self.geometry > 0:
            images = F.grid_sample(images, self._grid(images), padding_mode="border", align_corners=False)
        if self.colour > 0:
            gain, level = (_uniform(images, self.colour, len(images), images.shape[1], 1, 1) for _ in range(2))
            images = images * (1 + gain) + level / 2
        return images

    def _grid(self, images: Tensor) -> Tensor:  # (B, H, W, 2)
        zoom, angle, right, down = (_uniform(images, self.geometry, len(images)) for _ in range(4))  # each (B,)
        cosine, sine = (1 + zoom) * angle.cos(), (1 + zoom) * angle.sin()
        rows = torch.stack([cosine, -sine, right, sine, cosine, down], dim=1)  # (B, 6)
        return F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)


def _uniform(like: Tensor, bound: float, *shape: int) -> Tensor:
    """Uniform in [-bound, bound), on the device and of the type of ``like``."""
    return torch.empty(shape, device=like.device, dtype=like.dtype).uniform_(-bound, bound)
