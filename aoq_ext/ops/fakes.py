"""Fake kernels: the shapes and dtypes that each operator returns, for torch.compile, torch.export and meta tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._options import CODES, Reduction
from .library import BUILD_FACTS as _LOADED  # noqa: F401  (the operators must exist before they get a fake)

SAVED_ROWS = 10  # kSavedRows of csrc/params.h


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _forward_outputs(model: Tensor, codes: Sequence[int] | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, text_index, image_index and saved."""
    count, dtype = model.shape[0], _compute_dtype(model)
    reduction = Reduction.NONE if codes is None else dict(zip(CODES, codes))["reduction"]
    loss = model.new_empty((count,) if reduction == Reduction.NONE else (), dtype=dtype)
    index = model.new_empty((count,), dtype=torch.int64)
    return loss, index, torch.empty_like(index), model.new_empty((SAVED_ROWS, count), dtype=dtype)


def _needed(operands: tuple[Tensor | None, ...], model: Tensor, needs: int) -> tuple[Tensor, ...]:
    """A gradient for each operand whose bit is set, an empty tensor for the others."""
    return tuple(
        model.new_empty((0,) if operand is None or not needs >> bit & 1 else operand.shape)
        for bit, operand in enumerate(operands)
    )


@torch.library.register_fake("aoq::quintuplet_forward")
def _(
    image: Tensor,  # (B, D)
    text: Tensor,
    hard_image: Tensor | None,
    hard_text: Tensor | None,
    hard_text_image: Tensor | None,
    hard_image_text: Tensor | None,
    group_ids: Tensor | None,
    numbers: Sequence[float],
    codes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss, text_index, image_index, saved = _forward_outputs(image, codes)
    return loss, text_index, image_index, image.new_empty((2, image.shape[0]), dtype=torch.int64), saved


@torch.library.register_fake("aoq::quintuplet_backward")
def _(
    grad_loss: Tensor,  # () or (B,)
    image: Tensor,  # (B, D)
    text: Tensor,
    hard_image: Tensor | None,
    hard_text: Tensor | None,
    hard_text_image: Tensor | None,
    hard_image_text: Tensor | None,
    group_ids: Tensor | None,
    text_index: Tensor,  # (B,)
    image_index: Tensor,  # (B,)
    choice: Tensor,  # (2, B)
    saved: Tensor,  # (SAVED_ROWS, B)
    numbers: Sequence[float],
    codes: Sequence[int],
    needs: int,
    all_image: Tensor | None = None,  # (C, D)
    all_text: Tensor | None = None,
    first: int = 0,
) -> tuple[Tensor, ...]:
    return _needed((image, text, hard_image, hard_text, hard_text_image, hard_image_text), image, needs)


@torch.library.register_fake("aoq::quintuplet_score_forward")
def _(
    scores: Tensor,  # (B, B)
    hard_text_scores: Tensor | None,  # (B,)
    hard_image_scores: Tensor | None,
    hard_pair_scores: Tensor | None,
    partner_pair_scores: Tensor | None,
    group_ids: Tensor | None,
    numbers: Sequence[float],
    codes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, text_index, image_index, saved = _forward_outputs(scores, codes)
    return loss, text_index, image_index, saved


@torch.library.register_fake("aoq::quintuplet_score_backward")
def _(
    grad_loss: Tensor,  # () or (B,)
    scores: Tensor,  # (B, C)
    group_ids: Tensor | None,
    text_index: Tensor,  # (B,)
    image_index: Tensor,  # (B,)
    saved: Tensor,  # (SAVED_ROWS, B)
    numbers: Sequence[float],
    codes: Sequence[int],
    needs: int,
    first: int = 0,
) -> tuple[Tensor, ...]:
    column = scores.new_empty(scores.shape[:1])
    return _needed((scores, column, column, column, column), scores, needs)


@torch.library.register_fake("aoq::anchor_scores")
def _(
    image: Tensor,  # (B, D)
    text: Tensor,
    hard_image: Tensor | None,
    hard_text: Tensor | None,
    hard_text_image: Tensor | None,
    hard_image_text: Tensor | None,
    numbers: Sequence[float],
    codes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    count = image.shape[0]
    return image.new_empty((5, count), dtype=_compute_dtype(image)), image.new_empty((2, count), dtype=torch.int64)


def _online_negatives(model: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = _compute_dtype(model)
    row_keys, column_keys = (model.new_empty((2, count), dtype=torch.int64) for count in (rows, columns))
    return (
        row_keys,
        row_keys.new_empty((2, rows), dtype=dtype),
        column_keys,
        column_keys.new_empty((2, columns), dtype=dtype),
    )


@torch.library.register_fake("aoq::online_negatives")
def _(
    image: Tensor,  # (B, D)
    all_text: Tensor,  # (C, D)
    all_positive: Tensor,  # (C,)
    all_group_ids: Tensor | None,  # (C,)
    first: int,
    numbers: Sequence[float],
    codes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _online_negatives(image, image.shape[0], all_text.shape[0])


@torch.library.register_fake("aoq::online_negatives_of_scores")
def _(
    scores: Tensor,  # (B, C)
    all_positive: Tensor,  # (C,)
    all_group_ids: Tensor | None,  # (C,)
    first: int,
    numbers: Sequence[float],
    codes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _online_negatives(scores, *scores.shape)


@torch.library.register_fake("aoq::anchor_losses")
def _(
    scores: Tensor,  # (5, B)
    text_keys: Tensor,  # (2, B)
    text_hinges: Tensor,
    image_keys: Tensor,
    image_hinges: Tensor,
    numbers: Sequence[float],
    codes: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _forward_outputs(scores[0], None)


@torch.library.register_fake("aoq::hardest_negatives")
def _(
    image: Tensor,  # (B, D)
    text: Tensor,
    group_ids: Tensor | None,
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    score = image.new_empty(image.shape[:1], dtype=_compute_dtype(image))
    index = torch.empty_like(score, dtype=torch.int64)
    return index, score, torch.empty_like(index), torch.empty_like(score)


@torch.library.register_fake("aoq::mine_tile")
def _(
    anchors: Tensor,  # (n, D)
    candidates: Tensor,  # (m, D)
    anchor_keys: Tensor,  # (n, k)
    candidate_keys: Tensor | None,  # (m, k')
    *rest: object,
) -> tuple[Tensor, Tensor]:
    columns = (0,) if candidate_keys is None else candidate_keys.shape
    return anchor_keys.new_empty(anchor_keys.shape), anchor_keys.new_empty(columns)
