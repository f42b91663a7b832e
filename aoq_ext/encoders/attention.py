"""The scores of cross attention, from the products of regions and words alone.

A *query* (a word in ``t2i``, a region in ``i2t``) attends to a *context* (the image's regions, the text's words). With
s_cq the product of fragment c of the context and query q, x_c that fragment and a_cq the attention, the attended vector
v_q = Σ_c a_cq x_c is needed only for its product with the query and its length, and both follow without forming it:

    q·v_q = Σ_c a_cq s_cq          |v_q|² = Σ_cd a_cq a_dq (x_c·x_d) = a_qᵀ G a_q

where G is the context's Gram matrix. For D-dimensional features and C fragments that is C instead of D operations and
numbers for each product.

Every function works on products of shape (G, C, K, Q): G contexts of C fragments, K sets of Q queries for each. A
padded query or fragment has only zeros among its products; its mask, of a shape to broadcast, is false. A mask that is
None has no padding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-8  # as in the released code of SCAN and BFAN
Norm = Callable[[Tensor, Tensor | None], Tensor]
_SLOPE = 0.1  # of the leaky rectifier of the "clipped" normalisations


def fill(values: Tensor, mask: Tensor | None, filling: float) -> Tensor:
    """``values``, but ``filling`` where there is padding."""
    return values if mask is None else values.masked_fill(~mask, filling)


def _divided(products: Tensor, length: Tensor) -> Tensor:
    """By a quotient, not by a reciprocal: a single query is to give exactly 1, so that BFAN's fragments stay equal."""
    return products / (length + EPSILON)


def _softmax(products: Tensor, query_mask: Tensor | None) -> Tensor:
    return fill(products, query_mask, float("-inf")).softmax(dim=-1)


def _l2(products: Tensor, query_mask: Tensor | None) -> Tensor:
    return _divided(products, torch.linalg.vector_norm(products, dim=-1, keepdim=True))


def _l1(products: Tensor, query_mask: Tensor | None) -> Tensor:
    return _divided(products, products.abs().sum(dim=-1, keepdim=True))


def _none(products: Tensor, query_mask: Tensor | None) -> Tensor:
    return products


def _clipped(norm: Norm) -> Norm:
    return lambda products, query_mask: norm(F.leaky_relu(products, _SLOPE), query_mask)


# How a fragment's products are normalised over the queries before the softmax over the fragments.
FEATURE_NORMS: dict[str, Norm] = {
    "softmax": _softmax,
    "l2norm": _l2,
    "clipped_l2norm": _clipped(_l2),
    "l1norm": _l1,
    "clipped_l1norm": _clipped(_l1),
    "clipped": _clipped(_none),
    "no_norm": _none,
}


def _above_mean(attention: Tensor, count: Tensor | int) -> Tensor:
    """Σ_t (a_c − a_t) > 0: every other fragment's opinion counts the same."""
    return attention * count > attention.sum(dim=1, keepdim=True)


def _above_weighted_mean(attention: Tensor, count: Tensor | int) -> Tensor:
    """Σ_t (a_c − a_t) √a_t > 0: an opinion counts by the root of the attention that its holder has."""
    confidence = attention.sqrt()
    return attention * confidence.sum(dim=1, keepdim=True) > (attention * confidence).sum(dim=1, keepdim=True)


# Which fragments BFAN keeps.
FOCAL: dict[str, Callable[[Tensor, Tensor | int], Tensor]] = {"equal": _above_mean, "prob": _above_weighted_mean}


def refocus(attention: Tensor, focal: str, count: Tensor | int) -> Tensor:
    """attention: (G, C, ...), of sum 1 over C -> the same shape: all on those of ``count`` fragments that are kept."""
    with torch.no_grad():
        kept = FOCAL[focal](attention, count)
        # Fragments that share the attention equally (a single one does) are all as relevant as the best.
        kept |= ~kept.any(dim=1, keepdim=True)
    focused = attention * kept
    return focused / focused.sum(dim=1, keepdim=True)


def _lse(relevances: Tensor, mask: Tensor | None, lambda_lse: float) -> Tensor:
    return fill(relevances * lambda_lse, mask, float("-inf")).logsumexp(dim=-1) / lambda_lse


def _sum(relevances: Tensor, mask: Tensor | None, lambda_lse: float) -> Tensor:
    return fill(relevances, mask, 0.0).sum(dim=-1)


def _mean(relevances: Tensor, mask: Tensor | None, lambda_lse: float) -> Tensor:
    return _sum(relevances, mask, lambda_lse) / (relevances.shape[-1] if mask is None else mask.sum(dim=-1))


def _max(relevances: Tensor, mask: Tensor | None, lambda_lse: float) -> Tensor:
    return fill(relevances, mask, float("-inf")).amax(dim=-1)


# How the relevances of a pair's queries make its score: (G, K, Q) -> (G, K).
POOLINGS: dict[str, Callable[[Tensor, Tensor | None, float], Tensor]] = {
    "lse": _lse,
    "mean": _mean,
    "sum": _sum,
    "max": _max,
}
