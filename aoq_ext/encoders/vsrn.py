"""VSRN's image encoder: reasoning over regions, then over the whole scene."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from aoq_ext.encoders.padding import clear, padding_mask
from aoq_ext.encoders.regions import projection
from aoq_ext.encoders.words import last_states


class RegionGraphLayer(nn.Module):
    """One graph convolution over an image's regions, with a residual connection.

    Affinities R_ij = φ(v_i)ᵀ θ(v_j) / (number of regions) between embedded regions, then V* = BN(W_r R V W_g) + V
    (VSRN equations 2 and 3). The batch normalisation starts at zero, so the layer starts as the identity.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim)
        nn.init.zeros_(self.norm.weight)

    def forward(self, regions: Tensor, mask: Tensor | None = None) -> Tensor:
        """regions: (B, R, D), zeros where padded; mask: (B, R), false there -> (B, R, D), again zeros there"""
        affinity = self.query(regions) @ self.key(regions).mT  # (B, R, R)
        if mask is None:
            message = self.out((affinity / regions.shape[1]) @ self.value(regions))
            update: Tensor = self.norm(message.flatten(0, 1))
            return regions + update.view_as(regions)
        affinity = affinity.masked_fill(~mask.unsqueeze(1), 0.0) / mask.sum(dim=1)[:, None, None]
        message = self.out(affinity @ self.value(regions))
        # The statistics are those of real regions.
        return regions.masked_scatter(mask.unsqueeze(-1), regions[mask] + self.norm(message[mask]))


class VSRNEncoder(nn.Module):
    """Region features to one L2-normalised vector: linear map, graph convolutions, a GRU over the regions.

    "Visual Semantic Reasoning for Image-Text Matching", Li, Zhang, Li, Li, Fu, ICCV 2019, arXiv 1909.02701: v_i = W_f
    f_i + b_f (equation 1), region relationship reasoning (2, 3; `RegionGraphLayer`), global semantic reasoning by a
    GRU over the regions, whose last state is the image (4 to 7). Its text side is `GRUTextEncoder`. Its text
    generation loss, added to the matching loss (9, 10), is `CaptioningLoss`, on what `encode` gives.

    The released code differs from the paper in dividing affinities by the number of regions, and in normalising
    regions by a function that takes dimension 1 for that of the features: it is that of the regions, so every feature
    gets length one over an image's regions and the regions keep lengths of about √(D / R). Hence
    ``region_norm="regions"``. On COCO regions are normalised so before and after the graph convolutions; on Flickr30K
    only after them, and the GRU's state goes through a batch normalisation before it gets length one. The AOQ code has
    the same model.

    Args:
        image_dim: the size of a region's precomputed features.
        dim: D, the size of the joint space.
        layers: graph convolutions; 4 in the paper.
        region_norm: ``"regions"`` (see above), ``"features"`` (each region to length one) or ``"none"``.
        norm_before_graph: whether regions are normalised before the graph convolutions as well as after them; off for
            the released Flickr30K model.
        scene_batch_norm: whether the GRU's last state is normalised over the batch; on for the released Flickr30K
            model.

    Example:
        >>> import torch
        >>> VSRNEncoder(image_dim=16, dim=8)(torch.randn(2, 36, 16)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        image_dim: int = 2048,
        dim: int = 1024,
        layers: int = 4,
        region_norm: Literal["regions", "features", "none"] = "regions",
        norm_before_graph: bool = True,
        scene_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if region_norm not in ("regions", "features", "none"):
            raise ValueError(f"region_norm: expected 'regions', 'features' or 'none', got {region_norm!r}")
        self.region_norm = region_norm
        self.norm_before_graph = norm_before_graph
        self.project = projection(image_dim, dim)
        self.graph = nn.ModuleList(RegionGraphLayer(dim) for _ in range(layers))
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.scene_norm = nn.BatchNorm1d(dim) if scene_batch_norm else nn.Identity()

    def forward(self, images: Tensor, lengths: Tensor | None = None) -> Tensor:
        """images: (B, R, F); lengths: (B,), None where all have R regions -> (B, D)"""
        return self.encode(images, lengths)[0]

    def encode(self, images: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `forward` -> the images (B, D), and their regions after the graph convolutions (B, R, D)."""
        mask = padding_mask(images, lengths)
        # Cleared before the map, too: NaN in the padding would reach its gradient.
        regions = clear(self.project(clear(images, mask)), mask)
        if self.norm_before_graph:
            regions = self._normalised(regions)
        for layer in self.graph:
            regions = layer(regions, mask)
        regions = self._normalised(regions)
        states, last = self.gru(regions)
        scene = last[0] if lengths is None else last_states(states, lengths)
        return F.normalize(self.scene_norm(scene), dim=-1), regions

    def _normalised(self, regions: Tensor) -> Tensor:
        if self.region_norm == "none":
            return regions
        return F.normalize(regions, dim=1 if self.region_norm == "regions" else 2)
