"""The tiles and tables that set the directions side by side, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aoq_ext.mining.statistics import Statistics
from aoq_ext.mining.statistics.hubness import Hubness
from aoq_ext.mining.statistics.overlap import Overlap
from aoq_ext.mining.statistics.scan import TOP
from aoq_ext.mining.statistics.summary import percentiles
from aoq_ext.report.mined.words import UNKNOWN, decimal, percent, score

MEANINGS = {
    "hardest": "hardest negative",
    "tenth": f"negative at rank {TOP}",
    "last": "negative at rank k, the last",
    "positive": "own pair: the best of an image’s own captions, or a caption’s own image",
}


@dataclass(frozen=True)
class ComparisonTable:
    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]  # a name and one cell a column


def tiles(found: list[Statistics]) -> dict[str, list[tuple[str, str]]]:
    """A heading, and for each direction a figure and what it is of."""

    def hardest(statistics: Statistics) -> str:
        values = statistics.series().get("hardest")
        return score(None if values is None else percentiles(values)[1])

    def suspected(statistics: Statistics) -> str:
        suspects = statistics.suspects
        return percent(suspects.anchors / suspects.known if suspects and suspects.known else None)

    ways = [(statistics, statistics.direction) for statistics in found]
    return {
        "Anchors": [(f"{way.anchor_count:,}", f"{way.anchor}s") for _, way in ways],
        "Candidates": [(f"{way.candidate_count:,}", f"{way.candidate}s") for _, way in ways],
        "Asked for (k)": [(f"{way.lists.k:,}", f"{way.candidate}s for each {way.anchor}") for _, way in ways],
        "Median hardest score": [(hardest(s), f"for {way.anchor}s") for s, way in ways],
        "With suspected false negatives": [(suspected(s), f"of the {way.anchor}s") for s, way in ways],
        "List shorter than k": [(f"{s.short:,}", f"{way.anchor}s") for s, way in ways],
    }


def score_table(found: list[Statistics]) -> ComparisonTable:
    series = [statistics.series() for statistics in found]

    def cell(name: str, column: int) -> str:
        values = series[column].get(name)
        return UNKNOWN if values is None else " / ".join(map(score, percentiles(values)))

    return ComparisonTable(
        "Scores: 10 % / 50 % / 90 % of the anchors are below",
        [statistics.direction.title for statistics in found],
        [
            (text.split(":")[0], [cell(name, column) for column in range(len(found))])
            for name, text in MEANINGS.items()
            if any(name in names for names in series)
        ],
    )


def hub_table(found: list[Statistics]) -> ComparisonTable:
    columns: list[tuple[str, Hubness]] = []
    for statistics in found:
        way, k = statistics.direction.title, statistics.direction.lists.k
        if k > TOP:
            columns.append((f"{way}, first {TOP}", statistics.top_hubs))
        columns.append((f"{way}, all {k}", statistics.hubs))
    hubs = [hubs for _, hubs in columns]
    rows = [
        ("mean number of lists", [decimal(h.mean, 1) for h in hubs]),
        ("most lists", [f"{h.most:,}" for h in hubs]),
        ("skewness", [decimal(h.skewness) for h in hubs]),
        ("skewness, random lists", [decimal(h.random_skewness) for h in hubs]),
        ("in no list", [percent(h.never) for h in hubs]),
        ("in no list, random lists", [percent(h.random_never) for h in hubs]),
        ("places of the top 1 %", [percent(h.top_share) for h in hubs]),
    ]
    return ComparisonTable("How often candidates appear", [name for name, _ in columns], rows)


def overlap_table(statistics: Statistics, shared: Overlap) -> ComparisonTable:
    levels = range(len(shared.levels))
    return ComparisonTable(
        f"{statistics.direction.title}: mean over the {statistics.direction.anchor}s",
        [f"first {level}" for level in shared.levels],
        [
            ("shared", [percent(shared.mean_shared(level)) for level in levels]),
            ("Jaccard", [decimal(shared.mean_jaccard(level)) for level in levels]),
        ],
    )
