"""The autograd formulae of the operators; every backward pass is one operator. A loss saves O(B) numbers for it.

The formula of a loss is there twice: registered with torch.library, so that compiled graphs and direct calls of the
operator are differentiable, and as a plain autograd Function, which saves the overhead of that in an eager step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _fakes  # noqa: F401  (an operator needs its fake before its autograd formula can be traced)


def call_operator(operator: Any, *inputs: Any, **options: Any) -> Any:
    """Run an operator; straight to its kernel where no gradient of it can be asked for.

    The formulae registered below sit in Python between the dispatcher and the kernel, so even a call that needs none of
    them would go through Python a second time.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return operator(*inputs, **options)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*inputs, **options)


def _needs(wanted: Sequence[bool]) -> int:
    return sum(1 << bit for bit, flag in enumerate(wanted) if flag)


def _keep(wanted: Sequence[bool], grads: Sequence[Tensor]) -> list[Tensor | None]:
    return [grad if flag else None for grad, flag in zip(grads, wanted)]


def _setup_context(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    operands, margin_online, codes = inputs[:7], inputs[7], inputs[11:15]
    _, text_index, image_index, choice, saved = output
    ctx.mark_non_differentiable(text_index, image_index, choice, saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*operands, text_index, image_index, choice, saved)
    ctx.margin_online, ctx.codes, ctx.allow_tf32 = margin_online, codes, inputs[17]


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:6]
    if grad_loss is None or not any(wanted):
        return (None,) * 18
    grads = call_operator(
        torch.ops.aoq.quintuplet_backward.default,
        grad_loss,
        *ctx.saved_tensors,
        ctx.margin_online,
        *ctx.codes,
        _needs(wanted),
        allow_tf32=ctx.allow_tf32,
    )
    return (*_keep(wanted, grads), *(None,) * 12)


def _score_setup_context(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    scores, group_ids, margin_online, codes = inputs[0], inputs[5], inputs[6], inputs[11:13]
    _, text_index, image_index, saved = output
    ctx.mark_non_differentiable(text_index, image_index, saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(scores, group_ids, text_index, image_index, saved)
    ctx.margin_online, ctx.codes = margin_online, codes


def _score_backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:5]
    if grad_loss is None or not any(wanted):
        return (None,) * 15
    grads = call_operator(
        torch.ops.aoq.quintuplet_score_backward.default,
        grad_loss,
        *ctx.saved_tensors,
        ctx.margin_online,
        *ctx.codes,
        _needs(wanted),
    )
    return (*_keep(wanted, grads), *(None,) * 10)


def _refuse_double_backward(ctx: Any, *_: Tensor | None) -> None:
    raise RuntimeError(
        "aoq_ext losses have no second derivative: double backward (create_graph=True) is not supported; "
        "use the function of the same name in aoq_ext.reference, which is plain PyTorch"
    )


class QuintupletLoss(torch.autograd.Function):
    """aoq::quintuplet_forward, differentiable in an eager step."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output: tuple[Tensor, ...] = call_operator(torch.ops.aoq.quintuplet_forward.default, *inputs)
        _setup_context(ctx, inputs, output)
        return output

    backward = staticmethod(_backward)


class QuintupletScoreLoss(torch.autograd.Function):
    """aoq::quintuplet_score_forward, differentiable in an eager step."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        output: tuple[Tensor, ...] = call_operator(torch.ops.aoq.quintuplet_score_forward.default, *inputs)
        _score_setup_context(ctx, inputs, output)
        return output

    backward = staticmethod(_score_backward)


torch.library.register_autograd("aoq::quintuplet_forward", _backward, setup_context=_setup_context)
torch.library.register_autograd("aoq::quintuplet_backward", _refuse_double_backward)
torch.library.register_autograd("aoq::quintuplet_score_forward", _score_backward, setup_context=_score_setup_context)
torch.library.register_autograd("aoq::quintuplet_score_backward", _refuse_double_backward)
