"""Checks of tensor arguments: every error names the argument, what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor

from ._options import LossOptions, Objective

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGER_DTYPES = (
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip


def check_embeddings(
    image: Tensor,  # (B, D)
    text: Tensor,  # (B, D)
    offline: dict[str, Tensor | None],  # hard_image, hard_text, hard_text_image, hard_image_text
    group_ids: Tensor | None,  # (B,)
    options: LossOptions,
) -> None:
    """Check the arguments of the embedding form."""
    check_floating("image", image)
    if image.dim() != 2:
        raise ValueError(f"image must have shape (B, D), got {shape_of(image)}")
    check_like("text", text, image, "image")
    check_shape("text", text, tuple(image.shape), "the shape of image")
    rows, width = image.shape
    for name, tensor in offline.items():
        if needs_offline(name, tensor, options):
            assert tensor is not None
            check_like(name, tensor, image, "image")
            if tensor.dim() not in (2, 3) or tensor.shape[0] != rows or tensor.shape[-1] != width:
                raise ValueError(
                    f"{name} must have shape (B, D) = ({rows}, {width}) or (B, K, D) = ({rows}, K, {width}), "
                    f"got {shape_of(tensor)}"
                )
            if tensor.dim() == 3 and tensor.shape[1] == 0:
                raise ValueError(f"{name} must have at least one candidate (K ≥ 1), got {shape_of(tensor)}")
    if options.objective >= Objective.OFFLINE_QUINTUPLET:
        for partner, owner in (("hard_text_image", "hard_text"), ("hard_image_text", "hard_image")):
            tensor, model = offline[partner], offline[owner]
            assert tensor is not None and model is not None
            check_shape(partner, tensor, tuple(model.shape), f"the shape of {owner}")
    check_group_ids(group_ids, image)


def check_scores(
    scores: Tensor,  # (B, B)
    offline: dict[str, Tensor | None],  # each (B,)
    group_ids: Tensor | None,  # (B,)
    options: LossOptions,
    square: bool = True,
) -> None:
    """Check the arguments of the score-matrix form; not square: the rows of this rank, (B, C)."""
    check_floating("scores", scores)
    if scores.dim() != 2 or (square and scores.shape[0] != scores.shape[1]):
        expected = "square, (B, B)" if square else "of shape (B, C), C texts of all ranks"
        raise ValueError(f"scores must be {expected}, got {shape_of(scores)}")
    for name, tensor in offline.items():
        if needs_offline(name, tensor, options):
            assert tensor is not None
            check_like(name, tensor, scores, "scores")
            check_shape(name, tensor, (scores.shape[0],), "one score a pair, shape (B,)")
    check_group_ids(group_ids, scores)


_FIRST_OBJECTIVE = {
    "hard_image": Objective.OFFLINE_TRIPLET,
    "hard_text": Objective.OFFLINE_TRIPLET,
    "hard_text_image": Objective.OFFLINE_QUINTUPLET,
    "hard_image_text": Objective.OFFLINE_QUINTUPLET,
    "hard_text_scores": Objective.OFFLINE_TRIPLET,
    "hard_image_scores": Objective.OFFLINE_TRIPLET,
    "hard_pair_scores": Objective.OFFLINE_QUINTUPLET,
    "partner_pair_scores": Objective.OFFLINE_QUINTUPLET,
}


def needs_offline(name: str, tensor: Tensor | None, options: LossOptions) -> bool:
    """Whether the objective uses this argument; TypeError if it does and the argument is missing."""
    needed = options.objective >= _FIRST_OBJECTIVE[name]
    if needed and tensor is None:
        raise TypeError(
            f"{name} is required by objective={options.objective.name.lower()!r}, got None "
            "(objective='online_triplet' needs no offline negatives)"
        )
    return needed


def check_floating(name: str, tensor: Tensor) -> None:
    """Require a tensor of a supported floating dtype."""
    check_tensor(name, tensor)
    if tensor.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be float32, float16, bfloat16 or float64, got {dtype_of(tensor)}")


def check_like(name: str, tensor: Tensor, model: Tensor, model_name: str) -> None:
    """Require the dtype and the device of another argument."""
    check_tensor(name, tensor)
    if tensor.dtype != model.dtype:
        raise TypeError(f"{name} must have the dtype of {model_name}, {dtype_of(model)}, got {dtype_of(tensor)}")
    if tensor.device != model.device:
        raise ValueError(f"{name} must be on the device of {model_name}, {model.device}, got {tensor.device}")


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """Require a shape."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} must have {meaning}, {_tuple(expected)}, got {shape_of(tensor)}")


def check_group_ids(group_ids: Tensor | None, model: Tensor) -> None:
    """Require integer ids, one a pair, where the embeddings are."""
    if group_ids is None:
        return
    check_integers("group_ids", group_ids)
    if group_ids.device != model.device:
        raise ValueError(
            f"group_ids must be on the device of the other arguments, {model.device}, got {group_ids.device}"
        )
    check_shape("group_ids", group_ids, (model.shape[0],), "one id a pair, shape (B,)")


def check_integers(name: str, tensor: Tensor) -> None:
    """Require a tensor of an integer dtype."""
    check_tensor(name, tensor)
    if tensor.dtype not in INTEGER_DTYPES:
        raise TypeError(
            f"{name} must be an integer tensor, got {dtype_of(tensor)} "
            f"(expected one of {', '.join(str(dtype).removeprefix('torch.') for dtype in INTEGER_DTYPES)})"
        )


def as_int64(name: str, tensor: Tensor) -> Tensor:
    """The same integers as int64; those of uint64 must fit."""
    check_integers(name, tensor)
    integers = tensor.long()
    if tensor.dtype == torch.uint64 and not tensor.is_meta and bool((integers < 0).any()):
        raise ValueError(f"{name} must be at most 2**63 - 1, got {int(integers[integers < 0][0]) + (1 << 64)}")
    return integers


def as_signed(tensor: Tensor | None) -> Tensor | None:
    """Integers that are equal where the given ones are; torch computes little with unsigned ones."""
    return tensor if tensor is None or tensor.dtype.is_signed else tensor.long()


def check_tensor(name: str, tensor: object) -> None:
    """Require a torch.Tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")


def shape_of(tensor: Tensor) -> str:
    return _tuple(tuple(tensor.shape))


def dtype_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _tuple(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
