"""What is measured about a step: loss terms and similarities."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from aoq_ext import reference
from aoq_ext._options import LossOptions, Objective
from aoq_ext.training.config import LossConfig


@dataclass(frozen=True)
class BatchSimilarities:
    """What the loss of one step compares."""

    scores: Tensor  # (B, B) images in rows, texts in columns; or the rows of one process's images, (b, B)
    group_ids: Tensor  # (B,)
    offline: tuple[Tensor, ...] = ()  # a and b, then c and d, as far as the objective has them, each (B,)


@torch.no_grad()
def measure(similarities: BatchSimilarities, config: LossConfig, objective: str, online: str) -> dict[str, float]:
    """Means over the batch, per pair, in the symbols of the loss.

    ``loss/*`` are the terms of the loss that was optimised: they add up to the loss divided by B. ``similarity/*`` are
    the means of p, n and m, a, b, c and d. ``gap`` is the mean of a - n, the distance the adaptive weights look at;
    ``harder`` the share of offline negatives that are harder than the batch's hardest, a > n and b > m together;
    ``active`` the fraction of online hinges of the hardest negatives that are above zero; ``distance`` the mean of
    |p - n| and |p - m|, near zero only when the model cannot tell any pair from its negatives.
    """
    options = LossOptions.create(**asdict(config) | {"objective": objective, "online": online})
    scores = similarities.scores.float()
    offline = dict(zip("abcd", (part.float() for part in similarities.offline)))
    positive = scores.diagonal()  # (B,)
    allowed = reference.allowed_negatives(scores, similarities.group_ids)
    text = reference.online_term(scores, positive, allowed, offline.get("a"), options)
    image = reference.online_term(scores.T, positive, allowed, offline.get("b"), options)
    exists = torch.cat([text.exists, image.exists])  # (2B,)
    result = {"similarity/positive": positive.mean()}
    if exists.any():
        above = torch.cat([text.hardest - positive, image.hardest - positive])  # (2B,)
        result |= {
            "similarity/online_text": text.hardest[text.exists].mean(),
            "similarity/online_image": image.hardest[image.exists].mean(),
            "distance": above[exists].abs().mean(),
            "active": (exists & (reference.hinge(options.margin_online + above) > 0)).float().mean(),
            "loss/online_text": text.loss.mean(),
            "loss/online_image": image.loss.mean(),
        }
        if options.objective >= Objective.OFFLINE_TRIPLET:
            result["gap"] = (offline["a"] - text.hardest)[text.exists].mean()
            harder = torch.cat([offline["a"] > text.hardest, offline["b"] > image.hardest])  # (2B,)
            result["harder"] = harder[exists].float().mean()
        if options.objective == Objective.ADAPTIVE_QUINTUPLET:
            result["weight"] = torch.cat([text.weight, image.weight])[exists].mean()
    if options.objective >= Objective.OFFLINE_TRIPLET:
        for name, similarity in offline.items():
            result[f"loss/offline_{name}"] = reference.hinge(options.margin_offline + similarity - positive).mean()
            result[f"similarity/offline_{name}"] = similarity.mean()
    return {name: value.item() for name, value in result.items()}
