"""Image encoders over precomputed region features, without relations between regions: VSE++, SCAN, BFAN."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from aoq_ext.encoders.padding import clear, padding_mask


def projection(image_dim: int, dim: int) -> nn.Linear:
    """A linear map initialised as in the released code of all these models."""
    linear = nn.Linear(image_dim, dim)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class RegionEncoder(nn.Module):
    """The image side of SCAN and BFAN: every region's features mapped into the joint space and L2-normalised.

    SCAN section 3.2: v_i = W_v f_i + b_v.

    Args:
        image_dim: the size of a region's precomputed features.
        dim: D, the size of the joint space.

    Example:
        >>> import torch
        >>> RegionEncoder(image_dim=16, dim=8)(torch.randn(2, 36, 16)).shape
        torch.Size([2, 36, 8])
    """

    def __init__(self, image_dim: int = 2048, dim: int = 1024) -> None:
        super().__init__()
        self.project = projection(image_dim, dim)

    def forward(self, images: Tensor, lengths: Tensor | None = None) -> Tensor:
        """images: (B, R, F); lengths: (B,), None where all have R regions -> (B, R, D)"""
        # Cleared before the map: NaN in the padding would reach its gradient.
        return F.normalize(self.project(clear(images, padding_mask(images, lengths))), dim=-1)


class GlobalImageEncoder(nn.Module):
    """VSE++'s image side on precomputed features: one linear map of one vector, L2-normalised.

    "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives", Faghri, Fleet, Kiros, Fidler, BMVC 2018, arXiv
    1707.05612, section 3.1: f(i) = W_fᵀ φ(i), the text being g(c) = ψ(c), a GRU's last state (`GRUTextEncoder`), and
    s(i, c) = f(i)·g(c) of unit vectors.

    φ(i) is a convolutional network's last feature vector in the paper. Region features are averaged first, as later
    papers do that compare with it. The released code has no map W_g of the text: the GRU's state already has D entries.

    Args:
        image_dim: the size of φ(i), or of a region's features.
        dim: D, the size of the joint space.

    Example:
        >>> import torch
        >>> GlobalImageEncoder(image_dim=16, dim=8)(torch.randn(2, 36, 16)).shape
        torch.Size([2, 8])
    """

    def __init__(self, image_dim: int = 2048, dim: int = 1024) -> None:
        super().__init__()
        self.project = projection(image_dim, dim)

    def forward(self, images: Tensor, lengths: Tensor | None = None) -> Tensor:
        """images: (B, F) or (B, R, F); lengths: (B,), None where all have R regions -> (B, D)"""
        if images.dim() == 3:
            if lengths is None:
                images = images.mean(dim=1)
            else:
                images = clear(images, padding_mask(images, lengths)).sum(dim=1) / lengths.unsqueeze(1)
        return F.normalize(self.project(images), dim=-1)
