"""Image encoders for pictures of a few dozen pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
        in_channels: 3 for colours, 1 for grey.

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
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if image_size % 2 ** len(channels):
            raise ValueError(
                f"image_size: expected a multiple of {2 ** len(channels)} ({len(channels)} stages halve it), "
                f"got {image_size}"
            )
        self.view = RandomView(geometry, colour)
        self.features = nn.Sequential(*_stages(in_channels, channels), nn.Flatten(), nn.Dropout(dropout))
        self.project = nn.Linear(channels[-1] * (image_size >> len(channels)) ** 2, dim)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, in_channels, H, W), floating point, in [-1, 1] -> (B, D)"""
        return F.normalize(self.project(self.features(self.view(images))), dim=-1)


class GridBackbone(nn.Module):
    """The convolutions of `ConvEncoder`, whose grid is the image's regions: a stand-in for a detector's.

    A cell's features are the channels there and its place, so that F = channels[-1] + 2.

    Args:
        channels, geometry, colour, in_channels: as for `ConvEncoder`.

    Example:
        >>> import torch
        >>> GridBackbone(channels=(8, 16, 32))(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 16, 34])
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128),
        geometry: float = 0.1,
        colour: float = 0.2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.view = RandomView(geometry, colour)
        self.features = nn.Sequential(*_stages(in_channels, channels))

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, in_channels, H, W), floating point, in [-1, 1] -> (B, R, F), R cells, row by row"""
        cells = self.features(self.view(images))  # (B, C, h, w)
        places = torch.meshgrid(*(_centres(size, cells) for size in cells.shape[2:]), indexing="ij")
        grid = torch.stack(places).expand(len(cells), -1, -1, -1)  # (B, 2, h, w)
        return torch.cat([cells, grid], dim=1).flatten(2).mT


def _stages(width: int, channels: Sequence[int]) -> list[nn.Module]:
    stages: list[nn.Module] = []
    for index, next_width in enumerate(channels):
        kernel = 5 if index == 0 else 3  # the first stage sees raw pixels: a wider window costs little there
        stages += [
            nn.Conv2d(width, next_width, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(next_width),
            nn.ReLU(inplace=True),
        ]
        width = next_width
    return stages


def _centres(size: int, like: Tensor) -> Tensor:
    """(size,) the middles of as many equal parts of [-1, 1]"""
    return (torch.arange(size, device=like.device, dtype=like.dtype) * 2 + 1) / size - 1
