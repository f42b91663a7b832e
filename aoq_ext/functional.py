"""The losses as functions; the modules in :mod:`aoq_ext.losses` hold the same options as state."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from typing_extensions import Unpack

from . import distributed, reference
from ._options import LossKeywords, LossOptions, ScoreLossKeywords, ScoreLossOptions, shows
from .ops import calls

__all__ = ["adaptive_quintuplet_loss", "adaptive_quintuplet_score_loss"]


@shows(LossOptions)
def adaptive_quintuplet_loss(
    image: Tensor,  # (B, D)
    text: Tensor,  # (B, D)
    hard_image: Tensor | None = None,  # (B, D) or (B, K, D)
    hard_text: Tensor | None = None,  # (B, D) or (B, K, D)
    hard_text_image: Tensor | None = None,  # as hard_text
    hard_image_text: Tensor | None = None,  # as hard_image
    group_ids: Tensor | None = None,  # (B,)
    **options: Unpack[LossKeywords],
) -> Tensor:
    """Adaptive Offline Quintuplet loss of B image-text pairs, from their embeddings.

    Arguments, shapes and errors: see :class:`aoq_ext.AdaptiveQuintupletLoss`.

    Returns: float32 (float64 for float64 input), shape () or, with ``reduction="none"``, (B,).
    """
    chosen = LossOptions.create(**options)
    return embedding_loss(image, text, hard_image, hard_text, hard_text_image, hard_image_text, group_ids, chosen)


@shows(ScoreLossOptions)
def adaptive_quintuplet_score_loss(
    scores: Tensor,  # (B, B)  S, images in rows
    hard_text_scores: Tensor | None = None,  # (B,)  a
    hard_image_scores: Tensor | None = None,  # (B,)  b
    hard_pair_scores: Tensor | None = None,  # (B,)  c
    partner_pair_scores: Tensor | None = None,  # (B,)  d
    group_ids: Tensor | None = None,  # (B,)
    **options: Unpack[ScoreLossKeywords],
) -> Tensor:
    """Adaptive Offline Quintuplet loss of B pairs, from scores that a cross-attention model computed.

    Arguments, shapes and errors: see :class:`aoq_ext.AdaptiveQuintupletScoreLoss`.

    Returns: float32 (float64 for float64 input), shape () or, with ``reduction="none"``, (B,).
    """
    chosen = ScoreLossOptions.create(**options)
    return score_loss(
        scores, hard_text_scores, hard_image_scores, hard_pair_scores, partner_pair_scores, group_ids, chosen
    )


def embedding_loss(
    image: Tensor,
    text: Tensor,
    hard_image: Tensor | None,
    hard_text: Tensor | None,
    hard_text_image: Tensor | None,
    hard_image_text: Tensor | None,
    group_ids: Tensor | None,
    options: LossOptions,
) -> Tensor:
    """Validate, then run the fused operator, or the reference where no kernel exists."""
    if options.gather_distributed and torch.compiler.is_compiling():  # ranks that agree on something cannot be traced
        return _embedding_loss_untraced(
            image, text, hard_image, hard_text, hard_text_image, hard_image_text, group_ids, options
        )
    operands = (image, text, hard_image, hard_text, hard_text_image, hard_image_text)
    batch = distributed.join_embeddings(image, text, operands[2:], group_ids, options)
    if not calls.has_kernel(image):
        _warn_no_kernel(image)
        return reference.embedding_loss(*operands, group_ids, options, batch)
    if batch is not None:
        return distributed.quintuplet_loss(operands, group_ids, options, batch)
    return calls.quintuplet_loss(*operands, group_ids, options)


def score_loss(
    scores: Tensor,
    hard_text_scores: Tensor | None,
    hard_image_scores: Tensor | None,
    hard_pair_scores: Tensor | None,
    partner_pair_scores: Tensor | None,
    group_ids: Tensor | None,
    options: LossOptions,
) -> Tensor:
    """Validate, then compute from the given scores."""
    if options.gather_distributed and torch.compiler.is_compiling():
        return _score_loss_untraced(
            scores, hard_text_scores, hard_image_scores, hard_pair_scores, partner_pair_scores, group_ids, options
        )
    offline = (hard_text_scores, hard_image_scores, hard_pair_scores, partner_pair_scores)
    batch = distributed.join_scores(scores, offline, group_ids, options)
    if not calls.has_kernel(scores):
        _warn_no_kernel(scores)
        return reference.score_loss(scores, *offline, group_ids, options, batch)
    if batch is not None:
        return distributed.quintuplet_score_loss(scores, offline, group_ids, options, batch)
    return calls.quintuplet_score_loss(scores, *offline, group_ids, options)


_embedding_loss_untraced: Callable[..., Tensor] = torch.compiler.disable(embedding_loss)
_score_loss_untraced: Callable[..., Tensor] = torch.compiler.disable(score_loss)


def _warn_no_kernel(tensor: Tensor) -> None:
    if not torch.compiler.is_compiling():  # a warning cannot be traced
        _warn_once(tensor.device.type)


@cache
def _warn_once(device_type: str) -> None:
    warnings.warn(
        f"aoq_ext has no compiled kernel for {device_type} tensors in this build; the loss runs in plain PyTorch, "
        "correct but slower and with O(B²) memory. `aoq doctor` says why.",
        stacklevel=5,
    )
