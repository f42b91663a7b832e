"""An image encoder for pictures of a few dozen pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aoq_ext.encoders.augment import RandomView


class ConvEncoder(nn.Module):
    """Strided convolutions, then one linear map of what is left of the grid: images to L2-normalised embeddings.

    Every stage halves the grid. The grid is kept until the end, not averaged away, because in a drawing it matters
    *where* a part is.

    Args:
        dim: D, the size of an embedding.
        channels: the width of each stage.
        image_size: height and width of the images, in pixels.
        dropout: probability of zeroing an entry of the last feature map.
        geometry, colour: how much training images are changed at random; see `RandomView`.

    Example:
        >>> import torch
        >>> ConvEncoder(dim=64)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        dim: int = 128,
        channels: Sequence[int] = (32, 64, 128),
        image_size: int = 32,
        dropout: float = 0.0,
        geometry: float = 0.1,
        colour: float = 0.2,
    ) -> None:
        super().__init__()
        if image_size % 2 ** len(channels):
            raise ValueError(
                f"image_size: expected a multiple of {2 ** len(channels)} ({len(channels)} stages halve it), "
                f"got {image_size}"
            )
        self.view = RandomView(geometry, colour)
        stages: list[nn.Module] = []
        width = 3
        for index, next_width in enumerate(channels):
            kernel = 5 if index == 0 else 3  # the first stage sees raw pixels: a wider window costs little there
            stages += [
                nn.Conv2d(width, next_width, kernel, stride=2, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(next_width),
                nn.ReLU(inplace=True),
            ]
            width = next_width
        self.features = nn.Sequential(*stages, nn.Flatten(), nn.Dropout(dropout))
        self.project = nn.Linear(width * (image_size >> len(channels)) ** 2, dim)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W), floating point, in [-1, 1] -> (B, D)"""
        return F.normalize(self.project(self.features(self.view(images))), dim=-1)
