"""All figures of one direction, and the same figures for a machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import MiningRecord
from .direction import Direction, directions
from .hubness import Hubness, hubness
from .overlap import Overlap, mean, overlap
from .scan import TOP, Scan, scan
from .suspects import Suspects, find_suspects

PERCENTILES = (10, 50, 90)


@dataclass(frozen=True, eq=False)
class Statistics:
    direction: Direction
    scan: Scan
    hubs: Hubness  # over the whole lists
    top_hubs: Hubness  # over their first places
    suspects: Suspects | None  # None without positives
    overlap: Overlap | None

    @property
    def short(self) -> int:
        """Anchors with fewer than k negatives."""
        return int(np.count_nonzero(self.scan.lengths < self.direction.lists.k))

    def series(self) -> dict[str, NDArray[np.float32]]:
        """The scores that are compared, by name: of the hardest, of rank 10, of rank k, of the own pairs."""
        k = self.direction.lists.k
        found = {"hardest": self.scan.score_at(1)}
        if k > TOP:
            found["tenth"] = self.scan.score_at(TOP)
        if k > 1:
            found["last"] = self.scan.score_at(k)
        if self.direction.positive is not None:
            found["positive"] = self.direction.positive[np.isfinite(self.direction.positive)]
        return {name: values for name, values in found.items() if values.size}

    def by_rank(self) -> tuple[list[int], NDArray[np.float64]]:
        """P ranks that some list reaches, and (P, 3) the percentiles of the scores there."""
        reached = [int(rank) for rank in self.scan.ranks if self.scan.score_at(int(rank)).size]
        rows = [percentiles(self.scan.score_at(rank)) for rank in reached]
        return reached, np.array(rows, np.float64).reshape(-1, len(PERCENTILES))


def median(values: NDArray[np.float32]) -> float:
    """In float64, where the mean of two middle scores cannot overflow."""
    return float(np.median(values.astype(np.float64)))


def percentiles(values: NDArray[np.float32]) -> list[float]:
    return [float(value) for value in np.percentile(values.astype(np.float64), PERCENTILES)]


def collect(data: MiningRecord) -> list[Statistics]:
    """One for each direction that was mined."""
    found = []
    for direction in directions(data):
        scanned = scan(direction)
        found.append(
            Statistics(
                direction=direction,
                scan=scanned,
                hubs=hubness(scanned.occurrences, direction.anchor_count),
                top_hubs=hubness(scanned.top_occurrences, direction.anchor_count),
                suspects=find_suspects(data, direction, scanned),
                overlap=overlap(direction),
            )
        )
    return found


def for_machines(data: MiningRecord, found: list[Statistics]) -> dict[str, Any]:
    """Plain JSON values, null for what is not known or not finite."""
    tree = {
        "format": "aoq_ext mining report",
        "version": 1,
        "title": data.title,
        "date": data.date,
        "images": data.image_count,
        "texts": data.text_count,
        "seconds": {step: float(seconds) for step, seconds in data.seconds.items()},
        "excluded": list(data.excluded),
        "facts": dict(data.facts),
        "directions": {statistics.direction.key: _direction(statistics) for statistics in found},
    }
    cleaned: dict[str, Any] = _clean(tree)
    return cleaned


def _direction(statistics: Statistics) -> dict[str, Any]:
    direction, scanned, suspects = statistics.direction, statistics.scan, statistics.suspects
    ranks, scores = statistics.by_rank()
    return {
        "anchors": direction.anchor_count,
        "candidates": direction.candidate_count,
        "k": direction.lists.k,
        "negatives": int(scanned.lengths.sum()),
        "anchors_with_short_lists": statistics.short,
        "anchors_with_empty_lists": int(np.count_nonzero(scanned.lengths == 0)),
        "unusable_entries": scanned.unusable,
        "anchors_out_of_order": scanned.unordered,
        "score_percentiles": {
            name: dict(zip(map(str, PERCENTILES), percentiles(values))) for name, values in statistics.series().items()
        },
        "score_percentiles_by_rank": {
            "rank": ranks,
            **{str(level): scores[:, column].tolist() for column, level in enumerate(PERCENTILES)},
        },
        "hubness": {"whole_list": _hubness(statistics.hubs), f"first_{TOP}": _hubness(statistics.top_hubs)},
        "suspected_false_negatives": None
        if suspects is None
        else {
            "anchors_with_positive": suspects.known,
            "anchors": suspects.anchors,
            "pairs": suspects.pairs,
            "anchors_whose_hardest_repeats_an_own_caption": suspects.same_words,
            "anchors_by_rank": {
                "rank": [int(rank) for rank in scanned.ranks],
                "suspected": [int(scanned.suspects_at[rank - 1]) for rank in scanned.ranks],
                "listed": [int(scanned.listed_at[rank - 1]) for rank in scanned.ranks],
            },
        },
        "overlap": None if statistics.overlap is None else _overlap(statistics.overlap),
    }


def _hubness(hubs: Hubness) -> dict[str, Any]:
    return {
        "mean": hubs.mean,
        "most": hubs.most,
        "skewness": hubs.skewness,
        "skewness_if_random": hubs.random_skewness,
        "share_never_listed": hubs.never,
        "share_never_listed_if_random": hubs.random_never,
        "share_of_places_of_top_hundredth": hubs.top_share,
        "hubs": hubs.hubs.tolist(),
    }


def _overlap(shared: Overlap) -> dict[str, Any]:
    return {
        "anchors_compared": shared.anchors,
        "sampled": shared.sampled,
        "top": list(shared.levels),
        "mean_shared": [shared.mean_shared(level) for level in range(len(shared.levels))],
        "mean_jaccard": [shared.mean_jaccard(level) for level in range(len(shared.levels))],
        "mean_rank_correlation": mean(shared.correlation),
    }


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _clean(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_clean(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
