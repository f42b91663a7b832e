"""Typed calls of the operators of the loss, and where there are kernels."""

from __future__ import annotations

import re
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from .._options import LossOptions, Objective
from .._validation import as_signed
from .autograd import QuintupletLoss, QuintupletScoreLoss, call_operator
from .library import BUILD_FACTS


def has_kernel(tensor: Tensor) -> bool:
    """Whether the compiled library has kernels for the device of this tensor."""
    return tensor.device.type in ("cpu", "meta") or (tensor.is_cuda and _has_cuda_kernel(tensor.device.index))


def allows_tf32(tensor: Tensor) -> bool:
    """Whether the user allowed torch to round float32 products on this device to TF32."""
    return tensor.is_cuda and _cuda_allows_tf32()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
@cache
def _has_cuda_kernel(device: int) -> bool:
    capability = torch.cuda.get_device_capability(device)
    return any(_runs_on(name, capability) for name in BUILD_FACTS["cuda_architectures"].split(";") if name)


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether a device runs what was compiled for an architecture: ``90a`` on 9.0 alone, ``100f`` on 10.x from 10.0,
    and others on every later device, which translates it."""
    number, suffix = re.fullmatch(r"(\d+)([af]?)(?:-virtual)?", architecture).groups()  # type: ignore[union-attr]
    compiled = divmod(int(number), 10)
    if suffix == "a":
        return capability == compiled
    return capability >= compiled and (suffix != "f" or capability[0] == compiled[0])


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _cuda_allows_tf32() -> bool:
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")  # type: ignore[attr-defined]


def quintuplet_loss(
    image: Tensor,  # (B, D)
    text: Tensor,  # (B, D)
    hard_image: Tensor | None,  # (B, D) or (B, K, D)
    hard_text: Tensor | None,
    hard_text_image: Tensor | None,
    hard_image_text: Tensor | None,
    group_ids: Tensor | None,  # (B,)
    options: LossOptions,
) -> Tensor:  # () or (B,)
    """The fused loss of embeddings."""
    if options.objective < Objective.OFFLINE_QUINTUPLET:  # what the objective does not use is not an operand
        hard_text_image = hard_image_text = None
    if options.objective < Objective.OFFLINE_TRIPLET:
        hard_image = hard_text = None
    operator = _differentiable(QuintupletLoss, torch.ops.aoq.quintuplet_forward)
    operands = image, text, hard_image, hard_text, hard_text_image, hard_image_text
    loss: Tensor = operator(*operands, as_signed(group_ids), *options.lists(allows_tf32(image)))[0]
    return loss


def quintuplet_score_loss(
    scores: Tensor,  # (B, B)
    hard_text_scores: Tensor | None,  # (B,)
    hard_image_scores: Tensor | None,
    hard_pair_scores: Tensor | None,
    partner_pair_scores: Tensor | None,
    group_ids: Tensor | None,  # (B,)
    options: LossOptions,
) -> Tensor:  # () or (B,)
    """The fused loss of a score matrix."""
    if options.objective < Objective.OFFLINE_QUINTUPLET:
        hard_pair_scores = partner_pair_scores = None
    if options.objective < Objective.OFFLINE_TRIPLET:
        hard_text_scores = hard_image_scores = None
    operator = _differentiable(QuintupletScoreLoss, torch.ops.aoq.quintuplet_score_forward)
    offline = hard_text_scores, hard_image_scores, hard_pair_scores, partner_pair_scores
    loss: Tensor = operator(scores, *offline, as_signed(group_ids), *options.lists())[0]
    return loss


def _differentiable(function: type[torch.autograd.Function], operator: Any) -> Any:
    """The light autograd Function in an eager step, the registered operator in a traced one."""
    if torch.compiler.is_compiling():
        return operator
    if torch._C._are_functorch_transforms_active():  # jvp, for one, would silently return zeros
        raise RuntimeError(
            "aoq_ext losses do not support torch.func transforms (grad, vjp, jvp, vmap, ...); use loss.backward(), or "
            "the function of the same name in aoq_ext.reference, which is plain PyTorch"
        )
    return function.apply if torch.is_grad_enabled() else partial(call_operator, operator.default)
