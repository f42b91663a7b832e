"""The mining report's figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from aoq_ext.mining.statistics.summary import Statistics, median
from aoq_ext.report.charts import BINS, Axis, Chart, linear_axis, log_axis, shares

WAYS = {"image_to_text": "first", "text_to_image": "second"}  # how the directions look where both share a figure
STYLES = {"hardest": "offline", "tenth": "online", "last": "last", "positive": "positive"}


def ways(found: list[Statistics]) -> dict[str, str]:
    """The legend of what both directions share."""
    return {WAYS[statistics.direction.key]: statistics.direction.title for statistics in found}


def shown_series(found: list[Statistics], names: Mapping[str, str]) -> dict[str, str]:
    """The legend of the scores, of which `names` are the meanings."""
    return {STYLES[name]: text for name, text in names.items() if any(name in each.series() for each in found)}


def score_histograms(found: list[Statistics]) -> list[Markup]:
    """One panel a direction, on the same axes; none where nothing is listed."""
    series = [statistics.series() for statistics in found]
    bounds = [float(edge) for names in series for values in names.values() for edge in (values.min(), values.max())]
    if not bounds:
        return []
    x = linear_axis("score", min(bounds), max(bounds), count=7)
    edges = np.linspace(x.low, x.high, BINS + 1)
    heights = [{name: shares(values, edges) for name, values in names.items()} for names in series]
    y = linear_axis("anchors in the bin (%)", 0.0, max(float(h.max()) for names in heights for h in names.values()))
    panels = []
    for statistics, names, values in zip(found, heights, series, strict=True):
        title = statistics.direction.title
        panel = Chart(title, f"{title}: histograms of the scores of negatives and of own pairs", x, y)
        for name, height in names.items():
            panel.outline(edges, height, STYLES[name])
        for name in names:
            panel.rule(median(values[name]), STYLES[name])
        panels.append(panel.render())
    return panels


def rank_curves(found: list[Statistics]) -> list[Markup]:
    """Median and middle 80 % of the scores at each rank, with the median of the own pairs as a level line."""
    curves = [statistics.by_rank() for statistics in found]
    positives = [statistics.series().get("positive") for statistics in found]
    levels = [None if values is None else median(values) for values in positives]
    shown = [float(value) for _, scores in curves for value in scores.ravel()]
    if not shown:
        return []
    shown += [level for level in levels if level is not None]
    y = linear_axis("score", min(shown), max(shown))
    panels = []
    for statistics, (ranks, scores), level in zip(found, curves, levels, strict=True):
        title = statistics.direction.title
        x = _rank_axis(statistics.direction.lists.k)
        panel = Chart(title, f"{title}: score against rank, median and middle 80 % of the anchors", x, y)
        if ranks:
            low, middle, high = (scores[:, column].tolist() for column in range(3))
            panel.band(ranks, low, high, "offline")
            panel.line(ranks, middle, "offline")
        if level is not None:
            panel.level(level, "own pair", "positive")
        panels.append(panel.render())
    return panels


def hub_curves(found: list[Statistics]) -> list[Markup]:
    """How many candidates are in at least x lists, beside lists drawn at random."""
    panels = []
    for statistics in found:
        times, observed, random = statistics.hubs.at_least
        if not times.size:
            continue
        direction = statistics.direction
        x = log_axis("lists it appears in, at least", 1.0, float(times[-1]))
        y = log_axis(f"{direction.candidate}s", 1.0, float(direction.candidate_count))
        title = f"{direction.candidate.capitalize()}s by number of lists"
        panel = Chart(title, f"{direction.title}: {direction.candidate}s that appear in at least so many lists", x, y)
        kept = random >= 1.0
        panel.line(times[kept].tolist(), random[kept].tolist(), "first")
        panel.line(times.tolist(), observed.tolist(), "second")
        panels.append(panel.render())
    return panels


def suspect_figures(found: list[Statistics]) -> list[Markup]:
    """The excess of the hardest negative over the own pair, and how suspicion falls with rank; both directions."""
    excesses = [
        (statistics, statistics.suspects.excess)
        for statistics in found
        if statistics.suspects is not None and statistics.suspects.excess.size
    ]
    if not excesses:
        return []
    low = min(float(excess.min()) for _, excess in excesses)
    high = max(float(excess.max()) for _, excess in excesses)
    x = linear_axis("hardest negative − own pair (score)", min(low, 0.0), max(high, 0.0), count=7)
    edges = np.linspace(x.low, x.high, BINS + 1)
    heights = [(statistics, shares(excess, edges)) for statistics, excess in excesses]
    y = linear_axis("anchors in the bin (%)", 0.0, max(float(height.max()) for _, height in heights))
    histogram = Chart("How far above the own pair", "Histograms of hardest negative minus own pair", x, y)
    if high > 0:
        histogram.shade(0.0, x.high, "suspected", label_at_top=True)
    for statistics, height in heights:
        histogram.outline(edges, height, WAYS[statistics.direction.key])
    return [histogram.render(), _suspects_by_rank([statistics for statistics, _ in excesses])]


def _suspects_by_rank(found: list[Statistics]) -> Markup:
    lines = []
    for statistics in found:
        scanned = statistics.scan
        ranks = [int(rank) for rank in scanned.ranks if scanned.listed_at[rank - 1]]
        lines.append([(rank, 100.0 * scanned.suspects_at[rank - 1] / scanned.listed_at[rank - 1]) for rank in ranks])
    x = _rank_axis(max(statistics.direction.lists.k for statistics in found))
    y = linear_axis("of these above the own pair (%)", 0.0, max(1.0, *(share for line in lines for _, share in line)))
    panel = Chart("Suspected at each rank", "Share of the negatives at a rank that score above the own pair", x, y)
    for statistics, line in zip(found, lines, strict=True):
        panel.line([rank for rank, _ in line], [float(share) for _, share in line], WAYS[statistics.direction.key])
    return panel.render()


def overlap_histograms(found: list[Statistics]) -> list[Markup]:
    """Share of each anchor's list that was in the earlier one, for the first ten and for the whole list."""
    panels = []
    for statistics in found:
        shared = statistics.overlap
        if shared is None or not np.isfinite(shared.shared).any():
            continue
        edges = np.linspace(-0.05, 1.05, 12)  # so that every tenth, all that a list of ten can share, has its own bin
        chosen = {"online": _level(shared.levels, 10), "last": len(shared.levels) - 1}
        heights = {
            style: shares(shared.shared[:, column][np.isfinite(shared.shared[:, column])], edges)
            for style, column in chosen.items()
        }
        y = linear_axis("anchors in the bin (%)", 0.0, max(float(height.max()) for height in heights.values()))
        x = Axis("also in the earlier list (%)", -5.0, 105.0, (0.0, 20.0, 40.0, 60.0, 80.0, 100.0))
        title = statistics.direction.title
        panel = Chart(title, f"{title}: histogram of the share of each list that the earlier mining had too", x, y)
        for style, height in heights.items():
            panel.outline(100 * edges, height, style)
        panels.append(panel.render())
    return panels


def _level(levels: tuple[int, ...], wanted: int) -> int:
    return max(column for column, level in enumerate(levels) if level <= wanted or column == 0)


def _rank_axis(k: int) -> Axis:
    return log_axis("rank in the list", 1.0, float(k))
