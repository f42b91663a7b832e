"""Cross attention between the regions of images and the words of texts: scores of every pair, or of given pairs."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from aoq_ext._options import option_of
from aoq_ext.encoders.padding import check_features, check_lengths, clear, mask_of, padding_mask
from aoq_ext.encoders.score_grid import grid_scores
from aoq_ext.encoders.score_rule import Fragments, ScoreRule

# Products at a time, by default.
_CPU_CHUNK = 2**21  # many operations pass over a block, and each starts the threads anew
_GPU_CHUNK = 2**24  # as many as keep a GPU busy
_KEPT = 2**26  # products of a batch that are kept for the backward pass: 256 MiB in float32


class CrossAttention(nn.Module):
    """How well images and texts match by stacked cross attention (SCAN) or bidirectional focal attention (BFAN).

    In ``t2i`` every word attends to the image's regions and is compared with what it attends to, and the words'
    cosines are pooled into a score; in ``i2t`` regions attend to words; ``both`` is the sum of the two scores.
    See `attention` for the mathematics and `SCAN` and `BFAN` for the sources.

    All pairs are computed together, in blocks. A block's intermediate results are computed again for the backward
    pass, so memory beyond the inputs, their gradients and the scores is bounded: in one direction thirteen times
    ``chunk_elements`` numbers, in both nineteen; twice the features, for copies without padding and sums of gradients;
    and the products of regions and words themselves where a batch has no more than ``kept_elements``. Where a loss
    gives few pairs a gradient, as one with hardest negatives does, the backward pass computes only those.

    Padding is never read: whatever it holds, NaN included, scores and gradients are the same and its gradient is 0.
    float16 and bfloat16 features are computed with in float32.

    Args:
        direction: ``"t2i"``, ``"i2t"`` or ``"both"``.
        feature_norm: how products are normalised over the queries before the softmax over the context: ``"softmax"``,
            ``"l2norm"``, ``"clipped_l2norm"``, ``"l1norm"``, ``"clipped_l1norm"``, ``"clipped"`` or ``"no_norm"``.
        lambda_softmax: λ₁, the inverse temperature of that softmax.
        pooling: ``"lse"`` (LogSumExp), ``"mean"``, ``"sum"`` or ``"max"`` over the queries.
        lambda_lse: λ₂, how much LogSumExp magnifies the most relevant queries.
        focal: which fragments of the context stay attended to: ``None`` (all, as SCAN has it), ``"equal"`` or
            ``"prob"``.
        chunk_elements: products of a region and a word in one block; by default, as many as suit the device.
        kept_elements: see above; 0 keeps none.

    Example:
        >>> import torch
        >>> images, texts = torch.randn(3, 36, 64), torch.randn(5, 12, 64)
        >>> lengths = torch.tensor([12, 4, 7, 1, 9])
        >>> CrossAttention()(images, texts, lengths).shape
        torch.Size([3, 5])
    """

    direction: str = option_of("rule", ScoreRule)
    feature_norm: str = option_of("rule", ScoreRule)
    lambda_softmax: float = option_of("rule", ScoreRule)
    pooling: str = option_of("rule", ScoreRule)
    lambda_lse: float = option_of("rule", ScoreRule)
    focal: str | None = option_of("rule", ScoreRule)

    def __init__(
        self,
        direction: str = "t2i",
        feature_norm: str = "clipped_l2norm",
        lambda_softmax: float = 9.0,
        pooling: str = "lse",
        lambda_lse: float = 6.0,
        focal: str | None = None,
        chunk_elements: int | None = None,
        kept_elements: int = _KEPT,
    ) -> None:
        super().__init__()
        if chunk_elements is not None and chunk_elements < 1:
            raise ValueError(f"chunk_elements: expected a positive integer or None, got {chunk_elements}")
        self.rule = ScoreRule(direction, feature_norm, lambda_softmax, pooling, lambda_lse, focal)
        self.chunk_elements = chunk_elements
        self.kept_elements = kept_elements

    def extra_repr(self) -> str:
        return ", ".join(f"{field.name}={getattr(self.rule, field.name)!r}" for field in fields(self.rule))

    def forward(
        self,
        images: Tensor,  # (N, R, D)
        texts: Tensor,  # (M, L, D)
        lengths: Tensor,  # (M,) integers from 1 to L
        image_lengths: Tensor | None = None,  # (N,) integers from 1 to R; None: every image has R regions
    ) -> Tensor:  # (N, M)
        """The score of every image and every text."""
        text_lengths = _checked(images, texts, lengths, image_lengths)
        if not len(images) or not len(texts):
            return images.new_zeros(len(images), len(texts), dtype=_working(images).dtype)
        chunk = self.chunk_elements or (_CPU_CHUNK if images.device.type == "cpu" else _GPU_CHUNK)
        mask = padding_mask(images, image_lengths)
        with torch.autocast(images.device.type, enabled=False):
            return grid_scores(
                self.rule, _working(images), mask, _working(texts), text_lengths, chunk, self.kept_elements
            )

    def pairs(
        self,
        images: Tensor,  # (B, R, D)
        texts: Tensor,  # (B, L, D)
        lengths: Tensor,  # (B,) integers from 1 to L
        image_lengths: Tensor | None = None,  # (B,) integers from 1 to R
    ) -> Tensor:  # (B,)
        """The score of each image and the text in the same place."""
        text_lengths = _checked(images, texts, lengths, image_lengths)
        if len(images) != len(texts):
            raise ValueError(f"texts: expected as many as images, {len(images)}, got {len(texts)}")
        if not len(images):
            return images.new_zeros(0, dtype=_working(images).dtype)
        with torch.autocast(images.device.type, enabled=False):
            image_mask, text_mask = padding_mask(images, image_lengths), mask_of(lengths, max(text_lengths))
            texts = texts[:, : max(text_lengths)]
            image_side = Fragments.of(clear(_working(images), image_mask), image_mask)
            text_side = Fragments.of(clear(_working(texts), text_mask), text_mask)
            return self.rule.each_pair(image_side, text_side)


def _checked(images: Tensor, texts: Tensor, lengths: Tensor, image_lengths: Tensor | None) -> list[int]:
    """-> the lengths of the texts"""
    check_features(images, texts)
    if image_lengths is not None:
        check_lengths("image_lengths", image_lengths, images)
    return check_lengths("lengths", lengths, texts)


def _working(features: Tensor) -> Tensor:
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
