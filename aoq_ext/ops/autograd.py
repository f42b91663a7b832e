"""The autograd formulae of the operators; every backward pass is one operator. A loss saves O(B) numbers for it.

The formula of a loss is there twice: registered with torch.library, so that compiled graphs and direct calls of the
operator are differentiable, and as a plain autograd Function, which saves the overhead of that in an eager step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import fakes  # noqa: F401  (an operator needs its fake before its autograd formula can be traced)


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


def _gradients(ctx: Any, wanted: Sequence[bool], backward: Any, grad_loss: Tensor | None) -> tuple[Tensor | None, ...]:
    """A gradient for each operand that needs one; None for the others, and for group_ids, numbers and codes."""
    grads: Sequence[Tensor | None] = (None,) * len(wanted)
    if grad_loss is not None and any(wanted):
        found = call_operator(backward, grad_loss, *ctx.saved_tensors, *ctx.lists, _needs(wanted))
        grads = [grad if flag else None for grad, flag in zip(found, wanted)]
    return *grads, None, None, None


def _setup_context(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    *tensors, numbers, codes = inputs
    _, *chosen = output
    ctx.mark_non_differentiable(*chosen)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *chosen)
    ctx.lists = numbers, codes


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    *wanted, _groups, _numbers, _codes = ctx.needs_input_grad
    return _gradients(ctx, wanted, torch.ops.aoq.quintuplet_backward.default, grad_loss)


def _score_setup_context(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    scores, *_offline, group_ids, numbers, codes = inputs  # the gradients by offline scores do not need them
    _setup_context(ctx, (scores, group_ids, numbers, codes), output)


def _score_backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    *wanted, _groups, _numbers, _codes = ctx.needs_input_grad
    return _gradients(ctx, wanted, torch.ops.aoq.quintuplet_score_backward.default, grad_loss)


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
