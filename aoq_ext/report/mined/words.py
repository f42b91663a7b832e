"""Numbers as text, and the sentences that judge them: each is made from the figures or not at all."""

from __future__ import annotations

from aoq_ext.mining.statistics import Statistics
from aoq_ext.mining.statistics.summary import median
from aoq_ext.report.charts import tick_text
from aoq_ext.report.words import listed, number, plural

UNKNOWN = "—"


def score(value: float | None) -> str:
    """At most three significant digits; whole numbers from a thousand on."""
    return UNKNOWN if value is None else tick_text(value if abs(value) >= 1000 else float(f"{value:.3g}"))


def percent(share: float | None) -> str:
    """One decimal; what is not quite nothing or all is not shown as such."""
    if share is None:
        return UNKNOWN
    if 0 < share < 0.0005:
        return "under 0.1 %"
    if 0.9995 <= share < 1:
        return "over 99.9 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def decimal(value: float | None, digits: int = 2) -> str:
    return UNKNOWN if value is None else number(value, digits)


def hardness_takeaway(statistics: Statistics) -> str:
    """How far apart the hardest and the last negatives are, beside the anchor's own pairs."""
    direction, series = statistics.direction, statistics.series()
    if "hardest" not in series:
        return f"{direction.title}: no negatives are listed."
    medians = {name: median(values) for name, values in series.items()}
    parts = [f"a hardest negative of at least {score(medians['hardest'])}"]
    if "last" in medians:
        parts.append(f"a negative at rank {direction.lists.k} of at least {score(medians['last'])}")
    if "positive" in medians:
        parts.append(f"an own pair of at least {score(medians['positive'])}")
    return f"{direction.title}: half of the {direction.anchor}s have {listed(parts)}."


def hub_takeaway(statistics: Statistics) -> str:
    direction, hubs = statistics.direction, statistics.hubs
    noun = f"{direction.candidate}s"
    if hubs.most == 0:
        return f"{direction.title}: nothing is listed."
    if hubs.skewness is None:
        return f"{direction.title}: all {noun} appear equally often."
    return (
        f"{direction.title}: the skewness is {decimal(hubs.skewness)} (random lists: {decimal(hubs.random_skewness)}); "
        f"{percent(hubs.never)} of the {noun} are in no list (random lists: {percent(hubs.random_never)}), and the "
        f"most frequent 1 % take {percent(hubs.top_share)} of all places."
    )


def suspects_takeaway(statistics: Statistics) -> str:
    direction, suspects = statistics.direction, statistics.suspects
    assert suspects is not None
    if suspects.known == 0:
        return f"{direction.title}: no {direction.anchor} has a known score of its own."
    if suspects.anchors == 0:
        return f"{direction.title}: no listed negative scores above the {direction.anchor}’s own best pair."
    text = (
        f"{direction.title}: {plural(suspects.anchors, direction.anchor)} of {suspects.known:,} "
        f"({percent(suspects.anchors / suspects.known)}) {'has' if suspects.anchors == 1 else 'have'} at least one "
        f"negative above the own pair, {plural(suspects.pairs, 'pair')} in all."
    )
    if suspects.same_words is not None:
        if suspects.same_words == 0:
            return f"{text} In none of them does the hardest one repeat an own caption word for word."
        share = percent(suspects.same_words / suspects.anchors)
        found = (
            "caption repeats one of its own word for word"
            if direction.candidate == "caption"
            else "image carries the very same caption"
        )
        text += f" For {share} of these {direction.anchor}s the hardest {found}: certainly not a wrong answer."
    return text


def overlap_takeaway(statistics: Statistics) -> str:
    """What the agreement with the earlier lists says about mining again."""
    direction, shared = statistics.direction, statistics.overlap
    assert shared is not None
    whole = shared.mean_shared(len(shared.levels) - 1)
    if whole is None:
        return f"{direction.title}: there is nothing in either mining to compare."
    text = f"{direction.title}: on average {percent(whole)} of the first {shared.levels[-1]} were there before"
    if whole >= 0.8:
        return f"{text}. The lists have hardly moved: mining again this soon changes little."
    if whole >= 0.4:
        return f"{text}. The lists have moved in part: mining again now and then keeps them fresh."
    return f"{text}. The earlier lists no longer say what is hard for this model: train against the new ones."


def oddities(found: list[Statistics]) -> list[str]:
    """What a miner never writes but a damaged file may hold."""
    sentences = []
    for statistics in found:
        direction, scanned = statistics.direction, statistics.scan
        if scanned.unusable:
            entries = f"{scanned.unusable:,} {'entry' if scanned.unusable == 1 else 'entries'}"
            sentences.append(
                f"{direction.title}: {entries} without a finite score or an existing candidate; treated as absent."
            )
        if scanned.unordered:
            anchors = plural(scanned.unordered, direction.anchor)
            sentences.append(
                f"{direction.title}: the scores of {anchors} rise along the list, which should begin with the hardest."
            )
    return sentences
