"""What is measured about a step: loss terms and similarities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aoq_ext.training.config import LossConfig


@dataclass(frozen=True)
class Similarities:
    """What the loss of one step compares."""

    scores: Tensor  # (B, B) images in rows, texts in columns; or the rows of one process's images, (b, B)
    group_ids: Tensor  # (B,)
    offline: tuple[Tensor, ...] = ()  # a and b, then c and d, as far as the objective has them, each (B,)


@torch.no_grad()
def measure(similarities: Similarities, config: LossConfig, objective: str, online: str) -> dict[str, float]:
    """Means over the batch, per pair, in the symbols of the loss.

    ``loss/*`` are the terms of the loss that was optimised: they add up to the loss divided by B. ``similarity/*`` are
    the means of p, n and m, a, b, c and d. ``gap`` is the mean of a - n, the distance the adaptive weights look at;
    ``active`` the fraction of online hinges of the hardest negatives that are above zero; ``distance`` the mean of
    |p - n| and |p - m|, near zero only when the model cannot tell any pair from its negatives.
    """
    scores, group_ids = similarities.scores.float(), similarities.group_ids
    positive = scores.diagonal()  # (B,)
    forbidden = group_ids[:, None] == group_ids[None, :]
    has_negative = ~forbidden.all(dim=1)
    if not has_negative.any():
        return {"similarity/positive": positive.mean().item()}
    masked = scores.masked_fill(forbidden, -torch.inf)
    online_text, online_image = masked.amax(dim=1), masked.amax(dim=0)  # n, m

    def hinge(negative: Tensor, margin: float) -> Tensor:
        return (margin + negative - positive).relu()

    hinge_text, hinge_image = hinge(online_text, config.margin_online), hinge(online_image, config.margin_online)
    result = {
        "similarity/positive": positive.mean(),
        "similarity/online_text": online_text[has_negative].mean(),
        "similarity/online_image": online_image[has_negative].mean(),
        "distance": _distance(positive, online_text, online_image, has_negative),
        "active": torch.cat([hinge_text > 0, hinge_image > 0]).float().mean(),
    }
    if online == "all":
        every = (config.margin_online + masked - positive[:, None]).relu().sum(dim=1)
        every_image = (config.margin_online + masked - positive[None, :]).relu().sum(dim=0)
        hinge_text, hinge_image = every, every_image
    weight_text = weight_image = torch.ones_like(positive)
    if objective != "online_triplet":
        named = dict(zip("abcd", (part.float() for part in similarities.offline)))
        for name, similarity in named.items():
            result[f"loss/offline_{name}"] = hinge(similarity, config.margin_offline).mean()
            result[f"similarity/offline_{name}"] = similarity.mean()
        offline_text, offline_image = named["a"], named["b"]
        result["gap"] = (offline_text - online_text)[has_negative].mean()
        if objective == "adaptive_quintuplet":
            weight_text = _weight(offline_text - online_text, config)
            weight_image = _weight(offline_image - online_image, config)
            result["weight"] = torch.cat([weight_text[has_negative], weight_image[has_negative]]).mean()
    result["loss/online_text"] = torch.where(has_negative, weight_text * hinge_text, 0).mean()
    result["loss/online_image"] = torch.where(has_negative, weight_image * hinge_image, 0).mean()
    return {name: value.item() for name, value in result.items()}


def _weight(gap: Tensor, config: LossConfig) -> Tensor:
    weight = config.beta - gap / config.alpha
    return weight.clamp_min(0) if config.clamp_weight else weight


def _distance(positive: Tensor, online_text: Tensor, online_image: Tensor, has_negative: Tensor) -> Tensor:
    return torch.cat([(positive - online_text)[has_negative], (positive - online_image)[has_negative]]).abs().mean()
