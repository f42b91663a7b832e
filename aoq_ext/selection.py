"""The selection of online negatives alone, for use inside any other loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._options import LossOptions, Objective
from ._validation import as_signed, check_embeddings
from .ops import calls

__all__ = ["OnlineNegatives", "hardest_negatives"]


class OnlineNegatives(NamedTuple):
    """The hardest negatives of B pairs; index −1 and score −inf where a pair has none."""

    text_index: Tensor  # (B,) int64, the hardest text of each image
    text_score: Tensor  # (B,) float32, or float64 for float64 input
    image_index: Tensor  # (B,) int64, the hardest image of each text
    image_score: Tensor  # (B,)


def hardest_negatives(
    image: Tensor,  # (B, D)
    text: Tensor,  # (B, D)
    group_ids: Tensor | None = None,  # (B,)
) -> OnlineNegatives:
    """Select the hardest negative text of each image and the hardest negative image of each text, by dot product.

    The (B, B) score matrix is never stored. Nothing is differentiated: gather the chosen rows and score them again to
    train on them. Among equal scores the lowest index wins; NaN counts as the greatest score.

    Args:
        image: (B, D), float32, float16, bfloat16 or float64; row i pairs with row i of ``text``.
        text: (B, D), of the dtype and device of ``image``.
        group_ids: (B,) integers; pairs with equal ids are never each other's negatives.

    Raises:
        TypeError, ValueError: a wrong type, dtype, shape or device, named.

    Example:
        A plain triplet loss on the selected negatives::

            chosen = aoq_ext.hardest_negatives(image, text)
            has_negative = chosen.text_index >= 0
            positive = (image * text).sum(1)
            negative = (image * text[chosen.text_index]).sum(1)
            loss = (0.2 + negative - positive).relu()[has_negative].sum()
    """
    check_embeddings(image, text, {}, group_ids, LossOptions(objective=Objective.ONLINE_TRIPLET))
    image, text, group_ids = image.detach(), text.detach(), as_signed(group_ids)
    if calls.has_kernel(image):
        return OnlineNegatives(*torch.ops.aoq.hardest_negatives(image, text, group_ids, calls.allows_tf32(image)))
    return _plain(image, text, group_ids)


def _plain(image: Tensor, text: Tensor, group_ids: Tensor | None) -> OnlineNegatives:
    count = len(image)
    ids = torch.arange(count, dtype=torch.int64, device=image.device) if group_ids is None else group_ids.long()
    compute = torch.float64 if image.dtype == torch.float64 else torch.float32
    with torch.autocast(image.device.type, enabled=False):
        scores = image.to(compute) @ text.to(compute).T
    scores = scores.masked_fill(ids[:, None] == ids[None, :], float("-inf"))
    found = []
    for direction in (scores, scores.T):
        score, index = direction.max(dim=1) if count else (direction.new_empty(0), ids.new_empty(0))
        found += [index.long().masked_fill(score == float("-inf"), -1), score]
    return OnlineNegatives(*found)
