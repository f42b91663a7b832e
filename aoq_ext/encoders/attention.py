"""The scores of cross attention, from the products of regions and words alone.

A *query* (a word in ``t2i``, a region in ``i2t``) attends to a *context* (the image's regions, the text's words). With
s_qc the product of query q and fragment c of the context, x_c that fragment and a_qc the attention, the attended vector
v_q = Σ_c a_qc x_c is needed only for its product with the query and its length, and both follow without forming it:

    q·v_q = Σ_c a_qc s_qc          |v_q|² = Σ_cd a_qc a_qd (x_c·x_d) = a_qᵀ G a_q

where G is the context's Gram matrix. For D-dimensional features and C fragments that is C instead of D operations and
numbers for each product.

Every function works on products of shape (G, K, Q, C): G contexts, K sets of queries each. A padded query or fragment
has only zeros among its products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-8  # as in the released code of SCAN and BFAN
_SLOPE = 0.1  # of the leaky rectifier of the "clipped" normalisations


def _softmax(products: Tensor, query_mask: Tensor | None) -> Tensor:
    if query_mask is not None:
        products = products.masked_fill(~query_mask.unsqueeze(-1), float("-inf"))
    return products.softmax(dim=-2)


def _l2(products: Tensor, query_mask: Tensor | None) -> Tensor:
    squared = products.square().sum(dim=-2, keepdim=True)
    zero = squared == 0  # a padded fragment; the root has no derivative there
    return products / (squared.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0) + EPSILON)


def _l1(products: Tensor, query_mask: Tensor | None) -> Tensor:
    return products / (products.abs().sum(dim=-2, keepdim=True) + EPSILON)


def _none(products: Tensor, query_mask: Tensor | None) -> Tensor:
    return products


def _clipped(products: Tensor, query_mask: Tensor | None) -> Tensor:
    return F.leaky_relu(products, _SLOPE)


def _clipped_l2(products: Tensor, query_mask: Tensor | None) -> Tensor:
    return _l2(_clipped(products, query_mask), query_mask)


def _clipped_l1(products: Tensor, query_mask: Tensor | None) -> Tensor:
    return _l1(_clipped(products, query_mask), query_mask)


# How a fragment's products are normalised over the queries before the softmax over the fragments.
FEATURE_NORMS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "softmax": _softmax,
    "l2norm": _l2,
    "clipped_l2norm": _clipped_l2,
    "l1norm": _l1,
    "clipped_l1norm": _clipped_l1,
    "clipped": _clipped,
    "no_norm": _none,
}


def _above_mean(attention: Tensor, count: Tensor | int) -> Tensor:
    """Σ_t (a_c − a_t) > 0: every other fragment's opinion counts the same."""
    return attention * count > attention.sum(dim=-1, keepdim=True)


def _above_weighted_mean(attention: Tensor, count: Tensor | int) -> Tensor:
    """Σ_t (a_c − a_t) √a_t > 0: an opinion counts by the root of the attention that its holder has."""
    confidence = attention.sqrt()
    return attention * confidence.sum(dim=-1, keepdim=True) > (attention * confidence).sum(dim=-1, keepdim=True)


# Which fragments BFAN keeps.
FOCAL: dict[str, Callable[[Tensor, Tensor | int], Tensor]] = {"equal": _above_mean, "prob": _above_weighted_mean}


def refocus(attention: Tensor, focal: str, count: Tensor | int) -> Tensor:
    """attention: (..., C), of sum 1 -> the same shape: all on those of ``count`` fragments that ``focal`` keeps."""
    with torch.no_grad():
        kept = FOCAL[focal](attention, count)
        # Fragments that share the attention equally (a single one does) are all as relevant as the best.
        kept |= ~kept.any(dim=-1, keepdim=True)
    focused = attention * kept
    return focused / focused.sum(dim=-1, keepdim=True)


class _SquaredLength(torch.autograd.Function):
    """aᵀGa for every row a, (G, P, C) and (G, C, C) -> (G, P). G is symmetric: its derivative 2Ga costs no product."""

    @staticmethod
    def forward(ctx: Any, attention: Tensor, gram: Tensor) -> Tensor:
        spread = torch.bmm(attention, gram)
        ctx.save_for_backward(attention, spread)
        squared: Tensor = (spread * attention).sum(dim=-1)
        return squared

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        attention, spread = ctx.saved_tensors
        gradient = gradient.unsqueeze(-1)
        return spread * (2 * gradient), torch.bmm((attention * gradient).mT, attention)


def relevance(
    products: Tensor,  # (G, K, Q, C)
    gram: Tensor,  # (G, C, C), of the contexts
    query_norm: Tensor,  # (G or 1, K, Q), the queries' lengths
    query_mask: Tensor | None,  # (G or 1, K, Q), None: no query is padding
    context_mask: Tensor | None,  # (G, C), None: no fragment is padding
    feature_norm: str,
    lambda_softmax: float,
    focal: str | None,
) -> Tensor:  # (G, K, Q)
    """The cosine of each query and what it attends to; 0 where either vanishes.

    |v|² is a sum that may cancel: its rounding error is about ε times the context's largest squared length. A context
    that cancels below that counts as vanished. Short of it, a cosine's error grows as ε / |v|².
    """
    groups, fragments = products.shape[0], products.shape[-1]
    logits = FEATURE_NORMS[feature_norm](products, query_mask) * lambda_softmax
    if context_mask is not None:
        logits = logits.masked_fill(~context_mask[:, None, None, :], float("-inf"))
    attention = logits.softmax(dim=-1)
    if focal is not None:
        count = fragments if context_mask is None else context_mask.sum(dim=-1)[:, None, None, None]
        attention = refocus(attention, focal, count)
    agreement = (attention * products).sum(dim=-1)  # (G, K, Q), q·v
    flat = attention.view(groups, -1, fragments)
    squared: Tensor = _SquaredLength.apply(flat, gram).view(agreement.shape)  # (G, K, Q), |v|²
    smallest = gram.detach().diagonal(dim1=1, dim2=2).amax(dim=1).mul(torch.finfo(gram.dtype).eps)
    vanished = squared <= smallest[:, None, None]
    length = squared.masked_fill(vanished, 1.0).sqrt()  # filled before the root, whose derivative at 0 is infinite
    return (agreement / (length * query_norm).clamp(min=EPSILON)).masked_fill(vanished, 0.0)


def _lse(relevances: Tensor, mask: Tensor | None, lambda_lse: float) -> Tensor:
    scaled = relevances * lambda_lse
    if mask is not None:
        scaled = scaled.masked_fill(~mask, float("-inf"))
    return scaled.logsumexp(dim=-1) / lambda_lse


def _sum(relevances: Tensor, mask: Tensor | None, lambda_lse: float) -> Tensor:
    if mask is not None:
        relevances = relevances.masked_fill(~mask, 0.0)
    return relevances.sum(dim=-1)


def _mean(relevances: Tensor, mask: Tensor | None, lambda_lse: float) -> Tensor:
    return _sum(relevances, mask, lambda_lse) / (relevances.shape[-1] if mask is None else mask.sum(dim=-1))


def _max(relevances: Tensor, mask: Tensor | None, lambda_lse: float) -> Tensor:
    if mask is not None:
        relevances = relevances.masked_fill(~mask, float("-inf"))
    return relevances.amax(dim=-1)


# How the relevances of a pair's queries make its score: (G, K, Q) -> (G, K).
POOLINGS: dict[str, Callable[[Tensor, Tensor | None, float], Tensor]] = {
    "lse": _lse,
    "mean": _mean,
    "sum": _sum,
    "max": _max,
}
