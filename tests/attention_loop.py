"""The scores of cross attention as the papers write them: a loop over captions that forms every attended vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aoq_ext.encoders.score_rule import ScoreRule


def l2(x: Tensor) -> Tensor:
    return x / (x.pow(2).sum(2, keepdim=True).sqrt() + 1e-8)


def l1(x: Tensor) -> Tensor:
    return x / (x.abs().sum(2, keepdim=True) + 1e-8)


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(2),
    "l2norm": l2,
    "clipped_l2norm": lambda x: l2(leaky(x)),
    "l1norm": l1,
    "clipped_l1norm": lambda x: l1(leaky(x)),
    "clipped": leaky,
    "no_norm": lambda x: x,
}


def attended(query: Tensor, context: Tensor, rule: ScoreRule) -> Tensor:
    """query: (N, Q, D); context: (N, C, D) -> (N, Q, D)"""
    products = NORMS[rule.feature_norm](context @ query.mT)  # (N, C, Q)
    attention = (products.mT * rule.lambda_softmax).softmax(2)  # (N, Q, C)
    if rule.focal is not None:
        confidence = attention.sqrt() if rule.focal == "prob" else torch.ones_like(attention)
        difference = attention.unsqueeze(-1) - attention.unsqueeze(-2)  # (N, Q, C, C), i and t
        attention = attention * ((difference * confidence.unsqueeze(-2)).sum(-1) > 0)
        attention = attention / attention.sum(2, keepdim=True)
    return attention @ context


def pooled(query: Tensor, other: Tensor, rule: ScoreRule) -> Tensor:
    """(N, Q, D), (N, Q, D) -> (N,)"""
    cosine: Tensor = (query * other).sum(2) / (query.norm(dim=2) * other.norm(dim=2)).clamp(min=1e-8)
    if rule.pooling == "lse":
        return (cosine * rule.lambda_lse).exp().sum(1).log() / rule.lambda_lse
    return {"mean": cosine.mean(1), "sum": cosine.sum(1), "max": cosine.max(1).values}[rule.pooling]


def plain(rule: ScoreRule, images: Tensor, texts: Tensor, lengths: Tensor) -> Tensor:
    columns = []
    for text, length in zip(texts, lengths.tolist()):
        words = text[:length].expand(len(images), -1, -1)
        score = images.new_zeros(len(images))
        if rule.direction != "i2t":
            score = score + pooled(words, attended(words, images, rule), rule)
        if rule.direction != "t2i":
            score = score + pooled(images, attended(images, words, rule), rule)
        columns.append(score)
    return torch.stack(columns, dim=1)
