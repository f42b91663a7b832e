"""The fused losses of a batch that is spread over processes (``gather_distributed=True``).

Images stay where they are; the texts of every rank come to them. A rank finds the hardest texts of its images, and the
hardest of its images for every text; integer maxima over the ranks settle the latter. Each rank then finishes its own
anchors. In the backward pass every rank learns which negatives were chosen anywhere, and writes the gradients of its
own rows, contributions of remote anchors included, in the order one process would.

The loss that comes back is that of the whole batch on every rank, and ``backward()`` on every rank leaves each with the
gradient of that loss by its own rows: the rows one process would compute on the concatenated batch.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._options import LossOptions, Online, Reduction
from ._validation import FLOAT_DTYPES, check_embeddings, check_scores
from .ops.calls import allows_tf32
from .parallel import Shares, are_joined
from .parallel.agreement import agree
from .parallel.tensors import gather_rows, reduce_over_ranks, refuse_second_derivative, sum_over_ranks

_LOW = 0xFFFFFFFF


def join_embeddings(
    image: Tensor,  # (B, D)
    text: Tensor,  # (B, D)
    offline: Sequence[Tensor | None],  # hard_image, hard_text, hard_text_image, hard_image_text
    group_ids: Tensor | None,  # (B,)
    options: LossOptions,
) -> Shares | None:
    """Check the arguments; None where this process has the whole batch."""
    names = ("hard_image", "hard_text", "hard_text_image", "hard_image_text")

    def check() -> None:
        check_embeddings(image, text, dict(zip(names, offline)), group_ids, options)

    def describe() -> Mapping[str, int]:
        return {"D": image.shape[1], **_describe(image, (image, text, *offline), group_ids, options)}

    return _join(check, describe, image, options)


def join_scores(
    scores: Tensor,  # (B, C)
    offline: Sequence[Tensor | None],  # each (B,)
    group_ids: Tensor | None,  # (B,)
    options: LossOptions,
) -> Shares | None:
    """Check the arguments; None where this process has the whole batch."""
    names = ("hard_text_scores", "hard_image_scores", "hard_pair_scores", "partner_pair_scores")
    spread = options.gather_distributed and are_joined()

    def check() -> None:
        check_scores(scores, dict(zip(names, offline)), group_ids, options, square=not spread)

    def describe() -> Mapping[str, int]:
        return {"columns of scores": scores.shape[1], **_describe(scores, (scores, *offline), group_ids, options)}

    batch = _join(check, describe, scores, options)
    if batch and scores.shape[1] != batch.total:  # so on every rank, for all have as many columns
        raise ValueError(
            f"scores must have a column for every text of every rank, (B, C) = ({batch.rows}, {batch.total}), "
            f"got ({scores.shape[0]}, {scores.shape[1]})"
        )
    return batch


def _join(
    check: Callable[[], None], describe: Callable[[], Mapping[str, int]], model: Tensor, options: LossOptions
) -> Shares | None:
    if options.gather_distributed and are_joined():
        return agree(check, describe, model)
    check()
    return None


def _describe(
    model: Tensor, operands: Sequence[Tensor | None], group_ids: Tensor | None, options: LossOptions
) -> dict[str, int]:
    def whole(value: float) -> int:  # its bits, as integers are what is exchanged
        return int(struct.unpack("<q", struct.pack("<d", value))[0])

    return {
        "rows": model.shape[0],
        "dtype": FLOAT_DTYPES.index(model.dtype),
        "the kind of device": int(model.is_cuda),
        "group_ids being given": int(group_ids is not None),
        "requires_grad of the operands": _bits(
            [operand is not None and operand.requires_grad and torch.is_grad_enabled() for operand in operands]
        ),
        **{name: whole(float(value)) for name, value in asdict(options).items()},
    }


def quintuplet_loss(
    operands: Sequence[Tensor | None],
    group_ids: Tensor | None,
    options: LossOptions,
    batch: Shares,
) -> Tensor:  # () or (B,)
    """The fused loss of embeddings: image, text, hard_image, hard_text, hard_text_image, hard_image_text."""
    used = (2, 4, 6, 6)[options.objective]
    operands = (*operands[:used], *(None,) * (6 - used))
    loss: Tensor = _GatheredLoss.apply(options, batch, group_ids, *operands)
    return loss


def quintuplet_score_loss(
    scores: Tensor,  # (B, C)
    offline: Sequence[Tensor | None],
    group_ids: Tensor | None,
    options: LossOptions,
    batch: Shares,
) -> Tensor:  # () or (B,)
    """The fused loss of the rows of a score matrix."""
    used = (0, 2, 4, 4)[options.objective]
    offline = (*offline[:used], *(None,) * (4 - used))
    loss: Tensor = _GatheredScoreLoss.apply(options, batch, group_ids, scores, *offline)
    return loss


class _GatheredLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, options: LossOptions, batch: Shares, group_ids: Tensor | None, *operands: Tensor | None
    ) -> Tensor:
        image, text = operands[:2]
        assert image is not None and text is not None
        lists = options.lists(allows_tf32(image))
        scores, choice = torch.ops.aoq.anchor_scores(*operands, *lists)  # (5, B), (2, B)
        all_text = gather_rows(text, batch)
        all_groups = None if group_ids is None else gather_rows(group_ids.long(), batch)
        negatives = torch.ops.aoq.online_negatives(
            image, all_text, _all_positive(scores, options, batch), all_groups, batch.first, *lists
        )
        losses, *saved = _finish(scores, negatives, options, batch)
        ctx.save_for_backward(*operands, all_text, all_groups, choice, *saved)
        ctx.options, ctx.batch = options, batch
        return _reduce(losses, options, batch)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        options, batch = ctx.options, ctx.batch
        *operands, all_text, all_groups, choice, text_index, image_index, saved = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        all_image = gather_rows(operands[0], batch) if wanted[1] else None
        grad, index, saved = _gather_anchors(grad_loss, text_index, image_index, saved, options, batch)
        grads = torch.ops.aoq.quintuplet_backward(
            grad, *operands, all_groups, *index, choice, saved, *_unreduced(options).lists(allows_tf32(all_text)),
            _bits(wanted), all_image, all_text, batch.first,
        )  # fmt: skip
        return None, None, None, *(grad if flag else None for grad, flag in zip(grads, wanted))


class _GatheredScoreLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, options: LossOptions, batch: Shares, group_ids: Tensor | None, scores: Tensor, *offline: Tensor | None
    ) -> Tensor:
        compute = torch.float64 if scores.dtype == torch.float64 else torch.float32
        anchors = scores.new_zeros((5, batch.rows), dtype=compute)
        anchors[0] = scores.diagonal(batch.first)[: batch.rows]
        for row, given in enumerate(offline, start=1):
            if given is not None:
                anchors[row] = given
        all_groups = None if group_ids is None else gather_rows(group_ids.long(), batch)
        negatives = torch.ops.aoq.online_negatives_of_scores(
            scores, _all_positive(anchors, options, batch), all_groups, batch.first, *options.lists()
        )
        losses, *saved = _finish(anchors, negatives, options, batch)
        ctx.save_for_backward(scores, all_groups, *saved)
        ctx.options, ctx.batch = options, batch
        return _reduce(losses, options, batch)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        options, batch = ctx.options, ctx.batch
        scores, all_groups, text_index, image_index, saved = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        grad, index, saved = _gather_anchors(grad_loss, text_index, image_index, saved, options, batch)
        grads = torch.ops.aoq.quintuplet_score_backward(
            grad, scores, all_groups, *index, saved, *_unreduced(options).lists(), _bits(wanted), batch.first
        )
        return None, None, None, *(grad if flag else None for grad, flag in zip(grads, wanted))


def _all_positive(scores: Tensor, options: LossOptions, batch: Shares) -> Tensor:  # (5, B) -> (C,)
    """p of every anchor; zeros where the online negatives do not depend on it."""
    return scores.new_zeros(batch.total) if options.online == Online.HARDEST else gather_rows(scores[0], batch)


def _finish(
    scores: Tensor,  # (5, B)
    negatives: Sequence[Tensor],  # keys and hinges of the rows (2, B), then of the columns (2, C)
    options: LossOptions,
    batch: Shares,
) -> Sequence[Tensor]:
    """losses, text_index, image_index (B,) and saved (10, B)."""
    text_keys, text_hinges, column_keys, column_hinges = negatives
    column_keys = merge_hardest(column_keys, 64 if scores.dtype == torch.float64 else 32)
    if options.online == Online.ALL:
        column_hinges = sum_over_ranks(column_hinges)
    own = slice(batch.first, batch.first + batch.rows)
    finished: Sequence[Tensor] = torch.ops.aoq.anchor_losses(
        scores, text_keys, text_hinges, column_keys[:, own].contiguous(), column_hinges[:, own].contiguous(),
        *options.lists(),
    )  # fmt: skip
    return finished


def merge_hardest(keys: Tensor, score_bits: int) -> Tensor:
    """The greatest score of any rank, then its lowest index: (2, C) int64 [order key, index] in and out, on every rank.

    A key of 32 bits is packed with its index, so that one integer maximum decides both, whichever rank comes first.
    """
    score, index = keys
    if score_bits == 32:
        packed = (score << 32) | ((index & _LOW) ^ _LOW)  # a lower index is a greater key; none, −1, the least
        reduce_over_ranks(packed, dist.ReduceOp.MAX)
        low = (packed & _LOW) ^ _LOW
        return torch.stack([packed >> 32, torch.where(low == _LOW, -1, low)])
    best = score.clone()
    reduce_over_ranks(best, dist.ReduceOp.MAX)
    index = torch.where((score == best) & (index >= 0), index, torch.iinfo(torch.int64).max)
    reduce_over_ranks(index, dist.ReduceOp.MIN)
    return torch.stack([best, torch.where(index == torch.iinfo(torch.int64).max, -1, index)])


def _reduce(losses: Tensor, options: LossOptions, batch: Shares) -> Tensor:  # (B,) -> () or (B,)
    if options.reduction == Reduction.NONE:
        return losses
    total = gather_rows(losses, batch).sum(dtype=torch.float64)
    return (total / max(batch.total, 1) if options.reduction == Reduction.MEAN else total).to(losses.dtype)


def _gather_anchors(
    grad_loss: Tensor,  # () or (B,)
    text_index: Tensor,  # (B,)
    image_index: Tensor,  # (B,)
    saved: Tensor,  # (10, B)
    options: LossOptions,
    batch: Shares,
) -> tuple[Tensor, Sequence[Tensor], Tensor]:
    """∂loss/∂L (C,), text_index and image_index (C,), and saved (10, C) of every anchor."""
    scale = 1 / max(batch.total, 1) if options.reduction == Reduction.MEAN else 1.0
    grad = (grad_loss * scale).to(saved.dtype).expand(batch.rows)
    numbers = gather_rows(torch.cat([saved, grad[None]]).T, batch).T.contiguous()  # (11, C)
    index = gather_rows(torch.stack([text_index, image_index], dim=1), batch).T.contiguous()
    return numbers[-1], index.unbind(), numbers[:-1]


def _unreduced(options: LossOptions) -> LossOptions:
    """With the gradient of each anchor's loss given."""
    return replace(options, reduction=Reduction.NONE)


def _bits(wanted: Sequence[bool]) -> int:
    return sum(1 << bit for bit, flag in enumerate(wanted) if flag)
