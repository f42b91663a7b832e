"""The loss in plain PyTorch, to be read beside the formulae: the oracle for every kernel.

Notation of the paper (Chen, Deng, Luo, "Adaptive Offline Quintuplet Loss for Image-Text Matching", ECCV 2020,
arXiv 2003.03669), with one line of code per line of mathematics::

    S_ij = sim(x_i, y_j)       p_i = S_ii
    n_i  = max_j S_ij          m_i = max_j S_ji            online hardest negatives
    a_i  = sim(x_i, ỹ_i)   b_i = sim(x̃_i, y_i)   c_i = sim(x̃_i, ỹ_i)   d_i = sim(x̂_i, ŷ_i)
    w_i  = β − (a_i − n_i)/α   v_i = β − (b_i − m_i)/α
    L_i  = w_i [γ_on + n_i − p_i]₊ + v_i [γ_on + m_i − p_i]₊
         + [γ_off + a_i − p_i]₊ + [γ_off + b_i − p_i]₊ + [γ_off + c_i − p_i]₊ + [γ_off + d_i − p_i]₊

Rules the formulae leave open, and every implementation in this package shares:

* a hinge at exactly 0 is inactive: its value and its subgradient are 0, and so is a weight times it;
* pair i is never its own negative, nor is a pair of the same group; a score of −inf is no negative either;
* an anchor without a negative contributes 0 online;
* among equal scores the lowest index wins; NaN counts as the greatest score, as in ``torch.max``.

Half-precision input is computed in float32, so that scores are never rounded before they are compared.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from . import distributed
from ._options import (
    LossKeywords,
    LossOptions,
    Objective,
    Online,
    Reduction,
    ScoreLossKeywords,
    ScoreLossOptions,
    Similarity,
    shows,
)
from .parallel import Shares
from .parallel.tensors import GatherRows, SumOverRanks

__all__ = ["adaptive_quintuplet_loss", "adaptive_quintuplet_score_loss"]

_NO_NEGATIVE = float("-inf")


@shows(LossOptions)
def adaptive_quintuplet_loss(
    image: Tensor,  # (B, D)
    text: Tensor,  # (B, D)
    hard_image: Tensor | None = None,  # (B, D) or (B, K, D)
    hard_text: Tensor | None = None,  # (B, D) or (B, K, D)
    hard_text_image: Tensor | None = None,  # as hard_text
    hard_image_text: Tensor | None = None,  # as hard_image
    group_ids: Tensor | None = None,  # (B,)
    **options: Unpack[LossKeywords],
) -> Tensor:
    """Pure PyTorch form of :func:`aoq_ext.functional.adaptive_quintuplet_loss`; same arguments, same result."""
    chosen = LossOptions.create(**options)
    operands = (image, text, hard_image, hard_text, hard_text_image, hard_image_text)
    batch = distributed.join_embeddings(image, text, operands[2:], group_ids, chosen)
    return embedding_loss(*operands, group_ids, chosen, batch)


@shows(ScoreLossOptions)
def adaptive_quintuplet_score_loss(
    scores: Tensor,  # (B, B)
    hard_text_scores: Tensor | None = None,  # (B,)  a
    hard_image_scores: Tensor | None = None,  # (B,)  b
    hard_pair_scores: Tensor | None = None,  # (B,)  c
    partner_pair_scores: Tensor | None = None,  # (B,)  d
    group_ids: Tensor | None = None,  # (B,)
    **options: Unpack[ScoreLossKeywords],
) -> Tensor:
    """Pure PyTorch form of :func:`aoq_ext.functional.adaptive_quintuplet_score_loss`; same arguments, same result."""
    chosen = ScoreLossOptions.create(**options)
    offline = (hard_text_scores, hard_image_scores, hard_pair_scores, partner_pair_scores)
    batch = distributed.join_scores(scores, offline, group_ids, chosen)
    return score_loss(scores, *offline, group_ids, chosen, batch)


def embedding_loss(
    image: Tensor,
    text: Tensor,
    hard_image: Tensor | None,
    hard_text: Tensor | None,
    hard_text_image: Tensor | None,
    hard_image_text: Tensor | None,
    group_ids: Tensor | None,
    options: LossOptions,
    batch: Shares | None,
) -> Tensor:
    """The embedding form on arguments that were checked."""
    operands = (image, text, hard_image, hard_text, hard_text_image, hard_image_text)
    with torch.autocast(image.device.type, enabled=False):
        return _embedding_loss(*operands, group_ids, options, batch)


def score_loss(
    scores: Tensor,
    hard_text_scores: Tensor | None,
    hard_image_scores: Tensor | None,
    hard_pair_scores: Tensor | None,
    partner_pair_scores: Tensor | None,
    group_ids: Tensor | None,
    options: LossOptions,
    batch: Shares | None,
) -> Tensor:
    """The score-matrix form on arguments that were checked."""
    offline = (hard_text_scores, hard_image_scores, hard_pair_scores, partner_pair_scores)
    a, b, c, d = (None if s is None else _upcast(s) for s in offline)
    return _score_loss(_gather(_upcast(scores), batch), a, b, c, d, group_ids, options, batch)


def _embedding_loss(
    image: Tensor,  # (B, D)
    text: Tensor,  # (B, D)
    hard_image: Tensor | None,  # (B, D) or (B, K, D)
    hard_text: Tensor | None,  # (B, D) or (B, K, D)
    hard_text_image: Tensor | None,
    hard_image_text: Tensor | None,
    group_ids: Tensor | None,  # (B,)
    opt: LossOptions,
    batch: Shares | None,
) -> Tensor:
    x, y = _upcast(image), _upcast(text)
    a = b = c = d = None
    if opt.objective >= Objective.OFFLINE_TRIPLET:
        assert hard_image is not None and hard_text is not None
        x_tilde, y_tilde = _upcast(hard_image), _upcast(hard_text)
        x_hat = None if hard_text_image is None else _upcast(hard_text_image)
        y_hat = None if hard_image_text is None else _upcast(hard_image_text)
        y_tilde, x_hat = _hardest_candidate(x, y_tilde, x_hat, opt.similarity)
        x_tilde, y_hat = _hardest_candidate(y, x_tilde, y_hat, opt.similarity, anchor_is_text=True)
        a = _similarity(x, y_tilde, opt.similarity)
        b = _similarity(x_tilde, y, opt.similarity)
        if opt.objective >= Objective.OFFLINE_QUINTUPLET:
            assert x_hat is not None and y_hat is not None
            c = _similarity(x_tilde, y_tilde, opt.similarity)
            d = _similarity(x_hat, y_hat, opt.similarity)
    scores = _similarity_matrix(_gather(x, batch), _gather(y, batch), opt.similarity)
    return _score_loss(scores, a, b, c, d, group_ids, opt, batch)


def _score_loss(
    scores: Tensor,  # (C, C), of all ranks where the batch is spread over processes, (B, B) otherwise
    a: Tensor | None,  # (B,)
    b: Tensor | None,  # (B,)
    c: Tensor | None,  # (B,)
    d: Tensor | None,  # (B,)
    group_ids: Tensor | None,  # (B,)
    opt: LossOptions,
    batch: Shares | None,
) -> Tensor:
    if scores.shape[0] == 0:
        return _reduce(scores.sum(dim=1), opt.reduction, batch)
    a, b, c, d = (None if offline is None else _gather(offline, batch) for offline in (a, b, c, d))
    group_ids = None if group_ids is None else _gather(group_ids.long(), batch)
    positive = scores.diagonal()
    allowed = allowed_negatives(scores, group_ids)
    loss = torch.zeros_like(positive)
    for direction, offline in ((scores, a), (scores.T, b)):  # image → text, then text → image
        loss = loss + online_term(direction, positive, allowed, offline, opt).loss
    if opt.objective >= Objective.OFFLINE_TRIPLET:
        assert a is not None and b is not None
        loss = loss + hinge(opt.margin_offline + a - positive) + hinge(opt.margin_offline + b - positive)
    if opt.objective >= Objective.OFFLINE_QUINTUPLET:
        assert c is not None and d is not None
        loss = loss + hinge(opt.margin_offline + c - positive) + hinge(opt.margin_offline + d - positive)
    return _reduce(loss, opt.reduction, batch)


class OnlineTerm(NamedTuple):
    """Of every anchor of one direction."""

    loss: Tensor  # (B,)  w [γ_on + n − p]₊, 0 without a negative
    hardest: Tensor  # (B,)  n, 0 without a negative
    exists: Tensor  # (B,) bool: whether there is a negative
    weight: Tensor  # (B,)  w, 1 where it does not adapt


def online_term(
    scores: Tensor,  # (B, B), anchors in rows
    positive: Tensor,  # (B,)
    allowed: Tensor,  # (B, B) bool, symmetric
    offline: Tensor | None,  # (B,)  a or b
    opt: LossOptions,
) -> OnlineTerm:
    if opt.online == Online.SEMIHARD:
        allowed = allowed & ~(scores >= positive[:, None])  # written so that NaN stays selectable
    hardest = scores.masked_fill(~allowed, _NO_NEGATIVE).max(dim=1).values
    exists = hardest != _NO_NEGATIVE
    hardest = torch.where(exists, hardest, 0.0)
    if opt.online == Online.ALL:
        hinges = hinge(opt.margin_online + scores - positive[:, None])
        loss = torch.where(allowed, hinges, 0.0).sum(dim=1)
    else:
        loss = hinge(opt.margin_online + hardest - positive)
    weight = torch.ones_like(positive)
    if opt.objective == Objective.ADAPTIVE_QUINTUPLET:
        assert offline is not None
        weight = opt.beta - (offline - hardest) / opt.alpha
        if opt.clamp_weight:
            weight = hinge(weight)
        if opt.detach_weight:
            weight = weight.detach()
        loss = torch.where(loss == 0, 0.0, weight * loss)
    return OnlineTerm(torch.where(exists, loss, 0.0), hardest, exists, weight)


def hinge(value: Tensor) -> Tensor:
    # Not clamp: its subgradient at exactly 0 differs between torch versions, and it would hide nothing else.
    return torch.where(value <= 0, 0.0, value)


def allowed_negatives(scores: Tensor, group_ids: Tensor | None) -> Tensor:  # (B, B) bool
    if group_ids is not None:
        return group_ids[:, None] != group_ids[None, :]
    return ~torch.eye(scores.shape[0], dtype=torch.bool, device=scores.device)


def _hardest_candidate(
    anchor: Tensor,  # (B, D)
    candidates: Tensor,  # (B, D) or (B, K, D)
    partners: Tensor | None,  # as candidates
    similarity: Similarity,
    anchor_is_text: bool = False,
) -> tuple[Tensor, Tensor | None]:  # (B, D), (B, D)
    if candidates.dim() == 2:
        return candidates, partners
    with torch.no_grad():
        pair = (candidates, anchor[:, None]) if anchor_is_text else (anchor[:, None], candidates)
        chosen = _similarity(*pair, similarity).max(dim=1).indices  # (B,)
    rows = torch.arange(len(chosen), device=chosen.device)
    return candidates[rows, chosen], None if partners is None else partners[rows, chosen]


def _similarity(image: Tensor, text: Tensor, kind: Similarity) -> Tensor:  # (..., D), (..., D) -> (...,)
    if kind == Similarity.ORDER:
        return -_norm((text - image).clamp(min=0))
    if kind == Similarity.COSINE:
        image, text = _normalize(image), _normalize(text)
    return (image * text).sum(dim=-1)


def _similarity_matrix(image: Tensor, text: Tensor, kind: Similarity) -> Tensor:  # (B, D), (B, D) -> (B, B)
    if kind == Similarity.ORDER:
        return _similarity(image[:, None], text[None, :], kind)
    if kind == Similarity.COSINE:
        image, text = _normalize(image), _normalize(text)
    return image @ text.T


def _norm(vector: Tensor) -> Tensor:  # (..., D) -> (...,), with gradient 0 where the vector is 0
    square = (vector * vector).sum(dim=-1)
    positive = square != 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _normalize(vector: Tensor) -> Tensor:  # (..., D) -> (..., D); a zero vector stays 0 and gets gradient 0
    norm = _norm(vector)[..., None]
    return torch.where(norm != 0, vector / torch.where(norm != 0, norm, 1.0), 0.0)


def _upcast(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def _gather(rows: Tensor, batch: Shares | None) -> Tensor:  # (B, ...) -> (C, ...), differentiable
    return rows if batch is None else GatherRows.apply(rows, batch)


def _reduce(loss: Tensor, reduction: Reduction, batch: Shares | None) -> Tensor:  # (C,) -> () or (B,)
    count = loss.shape[0]
    if batch is not None:
        loss = batch.own(loss)
    if reduction == Reduction.NONE:
        return loss
    total = loss.sum() if batch is None else SumOverRanks.apply(loss.sum())
    return total / max(count, 1) if reduction == Reduction.MEAN else total
