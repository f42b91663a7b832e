"""The operators: loading the library, typed calls, fake kernels and the autograd formula."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._options import LossOptions, Objective, Online, Reduction, Similarity

LIBRARY = Path(__file__).with_name("libaoq.so")
MINIMUM_TORCH = (2, 11)
SAVED_ROWS = 10  # kSavedRows of csrc/params.h

Operands = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _load_library() -> dict[str, str]:
    release = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if release < MINIMUM_TORCH:
        raise ImportError(
            f"aoq_ext needs torch 2.11 or later, found {torch.__version__}; run `pip install --upgrade 'torch>=2.11'`"
        )
    if not LIBRARY.exists():
        raise ImportError(
            f"the compiled library {LIBRARY.name} is not beside aoq_ext ({LIBRARY.parent}); "
            "install the package with `pip install .` from its source folder, and do not import it from there"
        )
    if not _is_registered("aoq::quintuplet_forward"):  # loading a second library of this namespace would crash
        try:
            torch.ops.load_library(str(LIBRARY))
        except OSError as error:
            raise ImportError(
                f"{LIBRARY} does not load under torch {torch.__version__}: {error}; reinstall aoq_ext from its source "
                "folder with `pip install --force-reinstall --no-deps .`"
            ) from error
    describe = ctypes.CDLL(str(LIBRARY)).aoq_build_info
    describe.restype = ctypes.c_char_p
    facts: dict[str, str] = json.loads(describe())
    return facts


def _is_registered(name: str) -> bool:
    return bool(torch._C._dispatch_has_kernel(name)) if _has_schema(name) else False


def _has_schema(name: str) -> bool:
    return bool(torch._C._jit_get_schemas_for_operator(name))


BUILD_FACTS = _load_library()


def has_kernel(tensor: Tensor) -> bool:
    """Whether the compiled library has kernels for the device of this tensor."""
    return tensor.device.type == "cpu"


def quintuplet_loss(operands: Operands, options: LossOptions) -> Tensor:
    """The fused loss; operands: image, text, hard_image, hard_text, hard_text_image, hard_image_text, group_ids."""
    used = (2, 4, 6, 6)[options.objective]  # an offline negative the objective does not use is not an operand
    unused = [None] * (6 - used)
    out = torch.ops.aoq.quintuplet_forward(
        *operands[:used], *unused, operands[6],
        options.margin_online, options.margin_offline, options.alpha, options.beta,
        int(options.objective), int(options.online), int(options.similarity), int(options.reduction),
        options.detach_weight, options.clamp_weight,
    )  # fmt: skip
    loss: Tensor = out[0]
    return loss


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


@torch.library.register_fake("aoq::quintuplet_forward")
def _(
    image: Tensor,  # (B, D)
    text: Tensor,
    hard_image: Tensor | None,
    hard_text: Tensor | None,
    hard_text_image: Tensor | None,
    hard_image_text: Tensor | None,
    group_ids: Tensor | None,
    margin_online: float,
    margin_offline: float,
    alpha: float,
    beta: float,
    objective: int,
    online: int,
    similarity: int,
    reduction: int,
    detach_weight: bool,
    clamp_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    count, dtype = image.shape[0], _compute_dtype(image)
    loss = image.new_empty((count,) if reduction == Reduction.NONE else (), dtype=dtype)
    index = image.new_empty((count,), dtype=torch.int64)
    choice = image.new_empty((2, count), dtype=torch.int64)
    saved = image.new_empty((SAVED_ROWS, count), dtype=dtype)
    return loss, index, torch.empty_like(index), choice, saved


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
    margin_online: float,
    objective: int,
    online: int,
    similarity: int,
    reduction: int,
    needs: int,
) -> tuple[Tensor, ...]:
    operands = (image, text, hard_image, hard_text, hard_text_image, hard_image_text)
    return tuple(
        image.new_empty((0,) if operand is None or not needs >> bit & 1 else operand.shape)
        for bit, operand in enumerate(operands)
    )


def _setup_context(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    operands, (margin_online, *_), codes = inputs[:7], inputs[7:11], inputs[11:15]
    _, text_index, image_index, choice, saved = output
    ctx.mark_non_differentiable(text_index, image_index, choice, saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*operands, text_index, image_index, choice, saved)
    ctx.margin_online, ctx.codes = margin_online, codes


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:6]
    if grad_loss is None or not any(wanted):
        return (None,) * 17
    needs = sum(1 << bit for bit, flag in enumerate(wanted) if flag)
    grads = torch.ops.aoq.quintuplet_backward(grad_loss, *ctx.saved_tensors, ctx.margin_online, *ctx.codes, needs)
    return (*(grad if flag else None for grad, flag in zip(grads, wanted)), *(None,) * 11)


def _refuse_double_backward(ctx: Any, *_: Tensor | None) -> None:
    raise RuntimeError(
        "aoq_ext losses have no second derivative: double backward (create_graph=True) is not supported; "
        "use aoq_ext.reference.adaptive_quintuplet_loss, which is plain PyTorch"
    )


torch.library.register_autograd("aoq::quintuplet_forward", _backward, setup_context=_setup_context)
torch.library.register_autograd("aoq::quintuplet_backward", _refuse_double_backward)
