"""How unevenly the candidates share the places in the lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .data import Indices

HUBS_SHOWN = 10
_CURVE_POINTS = 40


@dataclass(frozen=True, eq=False)
class Hubness:
    """What a count of appearances says, beside what lists drawn at random would give."""

    mean: float  # appearances of a candidate
    most: int
    skewness: float | None  # None where all candidates appear equally often
    random_skewness: float | None
    never: float | None  # share of the candidates that appear in no list
    random_never: float | None
    top_share: float | None  # share of all places that the most frequent hundredth of the candidates takes
    at_least: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]  # each (P,): x, observed, random
    hubs: NDArray[np.int64]  # (at most 10,) candidates, most frequent first, ties by the lower index


def skewness(values: NDArray[np.int64]) -> float | None:
    """The third standardised moment, E[(x − mean)³] / std³."""
    if not values.size:
        return None
    centred = values - values.mean()
    variance = float(np.mean(centred**2))
    return None if variance == 0 else float(np.mean(centred**3)) / variance**1.5


def hubness(occurrences: Indices, anchors: int) -> Hubness:
    """occurrences: (C,) in how many of the lists of `anchors` anchors each candidate appears."""
    counts = np.asarray(occurrences, np.int64)
    total = int(counts.sum())
    ordered = np.sort(counts)[::-1]
    chance = total / (anchors * len(counts)) if anchors and counts.size else 0.0
    hubs = np.argsort(-counts, kind="stable")[:HUBS_SHOWN].astype(np.int64)
    leaders = int(np.ceil(len(counts) / 100))
    return Hubness(
        mean=total / len(counts) if counts.size else 0.0,
        most=int(counts.max(initial=0)),
        skewness=skewness(counts),
        random_skewness=_binomial_skewness(anchors, chance),
        never=float(np.mean(counts == 0)) if counts.size else None,
        random_never=float((1.0 - chance) ** anchors) if counts.size else None,
        top_share=float(ordered[:leaders].sum()) / total if total else None,
        at_least=_at_least(ordered, anchors, chance),
        hubs=hubs[counts[hubs] > 0],
    )


def _binomial_skewness(anchors: int, chance: float) -> float | None:
    """A candidate is in each list independently with the same chance when lists are drawn at random."""
    variance = anchors * chance * (1.0 - chance)
    return float((1.0 - 2.0 * chance) / np.sqrt(variance)) if variance > 0 else None


def _at_least(
    ordered: NDArray[np.int64], anchors: int, chance: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """How many candidates appear at least x times, as they do and as they would at random.

    ordered: (C,) appearances, descending.
    """
    most = int(ordered[0]) if ordered.size else 0
    if most == 0:
        return np.empty(0, np.int64), np.empty(0), np.empty(0)
    xs = np.unique(np.rint(np.geomspace(1, most, _CURVE_POINTS)).astype(np.int64))
    observed = np.searchsorted(-ordered, -xs, side="right").astype(np.float64)
    return xs, observed, len(ordered) * _binomial_tail(anchors, chance)[np.minimum(xs, anchors)]


def _binomial_tail(anchors: int, chance: float) -> NDArray[np.float64]:
    """(anchors + 1,) the probability of at least x successes."""
    if chance >= 1.0:
        return np.ones(anchors + 1)
    successes = np.arange(anchors, dtype=np.float64)
    steps = np.log((anchors - successes) / (successes + 1)) + np.log(chance / (1 - chance))
    logarithms = anchors * np.log1p(-chance) + np.concatenate([[0.0], np.cumsum(steps)])
    tail: NDArray[np.float64] = np.minimum(1.0, np.cumsum(np.exp(logarithms)[::-1])[::-1])
    return tail
