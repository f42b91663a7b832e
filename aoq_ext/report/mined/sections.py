"""The sections of the mining report; each function returns HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape

from aoq_ext.mining.statistics.data import MiningRecord
from aoq_ext.mining.statistics.overlap import mean
from aoq_ext.mining.statistics.scan import TOP
from aoq_ext.mining.statistics.summary import Statistics, percentiles
from aoq_ext.mining.statistics.suspects import CASES_SHOWN
from aoq_ext.report.legend import legend
from aoq_ext.report.mined import cards, charts, words
from aoq_ext.report.mined.tables import table
from aoq_ext.report.words import duration

_SERIES = {
    "hardest": "hardest negative",
    "tenth": f"negative at rank {TOP}",
    "last": "negative at rank k, the last",
    "positive": "own pair: the best of an image’s own captions, or a caption’s own image",
}

_ADVICE_HARDNESS = (
    "choose k where the curve has become flat. If even the first negatives are easy, train the model that "
    "mines for longer, or mine from a larger set."
)
_ADVICE_HUBS = (
    "draw from a longer list (larger k), so that hubs fill less of it; check that embeddings are normalised; "
    "correct or drop captions that fit everything."
)
_SUSPECT_FIGURES = (
    "First figure: everything in the shaded part is suspected. Second figure: how many of the negatives at each rank "
    "are; where the curve falls fast, leaving out the first few ranks is enough."
)
_ADVICE_SUSPECTS = (
    "give pairs that show the same thing, above all captions repeated word for word, the same group; or mine with "
    "a limit below the own pair (margin, relative_margin) or a fixed one (max_score). If the listed answers are "
    "plainly wrong, leave them in: they are what training is for."
)
_ADVICE_OVERLAP = (
    "while much changes between two minings, mine again after some epochs; once little does, stop mining and "
    "keep the lists."
)

Found = list[Statistics]


def headline(data: MiningRecord, found: Found) -> str:
    asked = " and ".join(f"{s.direction.lists.k} {s.direction.candidate}s for each {s.direction.anchor}" for s in found)
    date = f" · {escape(data.date)}" if data.date else ""
    return (
        f'<p class="eyebrow">aoq_ext mine{date}</p><h1>{escape(data.title)}</h1>'
        f'<p class="lede">Hard negatives of {words.plural(data.image_count, "image")} and '
        f"{words.plural(data.text_count, 'caption')}: the highest-scoring wrong answers, up to {asked}. This page "
        "shows how hard they are, whether a few of them crowd out the rest, and which are probably not wrong at all."
        f'</p><div class="tiles">{_tiles(data, found)}</div>'
    )


def _tiles(data: MiningRecord, found: Found) -> str:
    def tile(title: str, figure: Callable[[Statistics], tuple[str, str]]) -> str:
        lines = "".join(
            '<p class="figures">{} <small>{}</small></p>'.format(*map(escape, figure(statistics)))
            for statistics in found
        )
        return f'<div class="tile"><h3>{title}</h3>{lines}</div>'

    def hardest(statistics: Statistics) -> tuple[str, str]:
        values = statistics.series().get("hardest")
        middle = None if values is None else percentiles(values)[1]
        return words.score(middle), f"for {statistics.direction.anchor}s"

    def suspected(statistics: Statistics) -> tuple[str, str]:
        known = statistics.suspects.known if statistics.suspects else 0
        share = statistics.suspects.anchors / known if statistics.suspects and known else None
        return words.percent(share), f"of the {statistics.direction.anchor}s"

    tiles = [
        tile("Anchors", lambda s: (f"{s.direction.anchor_count:,}", f"{s.direction.anchor}s")),
        tile("Candidates", lambda s: (f"{s.direction.candidate_count:,}", f"{s.direction.candidate}s")),
        tile(
            "Asked for (k)",
            lambda s: (f"{s.direction.lists.k:,}", f"{s.direction.candidate}s for each {s.direction.anchor}"),
        ),
        tile("Median hardest score", hardest),
        tile("With suspected false negatives", suspected),
        tile("List shorter than k", lambda s: (f"{s.short:,}", f"{s.direction.anchor}s")),
    ]
    if data.seconds:
        steps = "; ".join(f"{escape(step)} {duration(seconds)}" for step, seconds in data.seconds.items())
        total = duration(sum(data.seconds.values()))
        tiles.append(f'<div class="tile"><h3>Time</h3><p class="figures">{total}</p><p class="small">{steps}</p></div>')
    return "".join(tiles)


def hardness(found: Found) -> str:
    histograms, curves = charts.score_histograms(found), charts.rank_curves(found)
    if not histograms:
        return "<p>No negatives are listed, so there are no scores to show.</p>"
    series = [statistics.series() for statistics in found]
    shown = {charts.STYLES[name]: text for name, text in _SERIES.items() if any(name in names for names in series)}
    rows = []
    for name, text in _SERIES.items():
        if any(name in names for names in series):
            cells = [
                " / ".join(words.score(value) for value in percentiles(names[name])) if name in names else words.UNKNOWN
                for names in series
            ]
            rows.append((text.split(":")[0], cells))
    takeaway = _lines(words.hardness_takeaway(statistics) for statistics in found)
    return (
        "<p><b>Look for</b> negatives close to the own pairs, but below them. Where the negatives lie far to the left, "
        "the model already tells them apart and they teach little. Where they reach past the own pairs, some are "
        "mistakes of the model, and some are mistakes of the labels.</p>"
        f'<figure>{legend(shown)}<div class="grid">{"".join(histograms)}</div><figcaption><b>{takeaway}</b><br>'
        "Upright lines are medians. Anchors without a negative at a rank do not count there.</figcaption></figure>"
        f"{table('Scores: 10 % / 50 % / 90 % of the anchors are below', _titles(found), rows)}"
        f"{_curves(curves)}"
        f"{_advice(_ADVICE_HARDNESS)}"
    )


def _curves(panels: list[str]) -> str:
    if not panels:
        return ""
    return (
        f'<figure><div class="grid">{"".join(panels)}</div><figcaption>The line is the median score at each rank, the '
        "band holds the middle 80 % of the anchors; the level line is the median own pair. A steep start means that "
        "few negatives are really hard; a flat end means that a longer list would bring more of the same kind."
        "</figcaption></figure>"
    )


def hubness(data: MiningRecord, found: Found) -> str:
    panels = charts.hub_curves(found)
    if not panels:
        return "<p>No negatives are listed, so nothing can be a hub.</p>"
    columns = [f"{s.direction.title}, {part}" for s in found for part in _parts(s)]
    hubs = [hubs for s in found for hubs in ([s.top_hubs, s.hubs] if len(_parts(s)) == 2 else [s.hubs])]
    rows = [
        ("mean number of lists", [words.decimal(h.mean, 1) for h in hubs]),
        ("most lists", [f"{h.most:,}" for h in hubs]),
        ("skewness", [words.decimal(h.skewness) for h in hubs]),
        ("skewness, random lists", [words.decimal(h.random_skewness) for h in hubs]),
        ("in no list", [words.percent(h.never) for h in hubs]),
        ("in no list, random lists", [words.percent(h.random_never) for h in hubs]),
        ("places of the top 1 %", [words.percent(h.top_share) for h in hubs]),
    ]
    takeaway = _lines(words.hub_takeaway(s.direction, s.hubs) for s in found)
    hub_lists = "".join(cards.hub_list(data, s) for s in found)
    return (
        "<p>A <b>hub</b> is a candidate that is close to very many anchors at once. <b>Look for</b> a curve that runs "
        "far to the right of the random one, and for hubs with empty, very short or very general captions: training "
        "then meets the same few negatives again and again, and never the candidates that are in no list.</p>"
        f"<figure>{legend({'second': 'as mined', 'first': 'if lists were drawn at random'})}"
        f'<div class="grid">{"".join(panels)}</div><figcaption><b>{takeaway}</b><br>Skewness is the third '
        "standardised moment of the number of lists a candidate is in; 0 is symmetric, and high values mean few hubs "
        "and many candidates that are hardly ever listed.</figcaption></figure>"
        f"{table('How often candidates appear', columns, rows)}"
        f'<div class="cards hubs">{hub_lists}</div>'
        f"{_advice(_ADVICE_HUBS)}"
    )


def _parts(statistics: Statistics) -> list[str]:
    k = statistics.direction.lists.k
    return [f"first {TOP}", f"all {k}"] if k > TOP else [f"all {k}"]


def suspects(data: MiningRecord, found: Found) -> str:
    judged = [statistics for statistics in found if statistics.suspects is not None]
    if not judged:
        return "<p>Scores of the own pairs were not given, so suspected false negatives cannot be told.</p>"
    figures = "".join(charts.suspect_figures(judged))
    names = {s.direction.style: s.direction.title for s in judged}
    takeaway = _lines(words.suspects_takeaway(s.direction, s.suspects) for s in judged if s.suspects)
    figure = f'{legend(names)}<div class="grid">{figures}</div>' if figures else ""
    galleries = "".join(_gallery(data, statistics) for statistics in judged)
    return (
        "<p>A negative that scores above the anchor’s own best pair is either a mistake of the model, which training "
        "should correct, or a <b>false negative</b>: an answer that fits, but that the data set gives to another "
        "image. <b>Look</b> at the cards: would you call the listed answer wrong?</p>"
        f"<figure>{figure}<figcaption><b>{takeaway}</b><br>{_SUSPECT_FIGURES if figures else ''}</figcaption></figure>"
        f"{galleries}"
        f"{_advice(_ADVICE_SUSPECTS)}"
    )


def _gallery(data: MiningRecord, statistics: Statistics) -> str:
    shown = cards.suspect_cards(data, statistics)
    if not shown:
        return ""
    direction = statistics.direction
    return (
        f'<h3>{escape(direction.title)}: the furthest above the own pair</h3><div class="cards">{shown}</div>'
        f'<p class="small">Highest excess first, one card for each {direction.anchor}, at most {CASES_SHOWN}: the most '
        "striking, not typical ones. Numbers are scores.</p>"
    )


def overlap(found: Found) -> str:
    compared = [(s, s.overlap) for s in found if s.overlap is not None]
    if not compared:
        return "<p>No earlier mining was given to compare with.</p>"
    panels = "".join(charts.overlap_histograms(found))
    takeaway = _lines(words.overlap_takeaway(s.direction, shared) for s, shared in compared)
    tables = []
    for statistics, shared in compared:
        columns = [f"first {level}" for level in shared.levels]
        rows = [
            ("shared", [words.percent(shared.mean_shared(level)) for level in range(len(columns))]),
            ("Jaccard", [words.decimal(shared.mean_jaccard(level)) for level in range(len(columns))]),
        ]
        tables.append(
            table(f"{statistics.direction.title}: mean over the {statistics.direction.anchor}s", columns, rows)
        )
    correlations = "; ".join(f"{s.direction.title} {words.decimal(mean(shared.correlation))}" for s, shared in compared)
    sampled = [f"{shared.anchors:,} {s.direction.anchor}s" for s, shared in compared if shared.sampled]
    sample = f" Measured on {' and '.join(sampled)} drawn at random (fixed seed)." if sampled else ""
    return (
        "<p><b>Look for</b> lists that changed. What is hard depends on the model: as it learns, its old hard "
        "negatives become easy, and training against them teaches nothing more.</p>"
        f"<figure>{legend({'online': f'first {TOP}', 'last': 'whole list'})}"
        f'<div class="grid">{panels}</div><figcaption><b>{takeaway}</b><br>“Shared” is the part of a list that '
        "was in the earlier list of the same anchor, both cut to the same length; Jaccard divides what is in both by "
        f"what is in either. Mean rank correlation of what both lists hold: {correlations}.{sample}"
        "</figcaption></figure>"
        f'<div class="grid">{"".join(tables)}</div>'
        f"{_advice(_ADVICE_OVERLAP)}"
    )


def made(data: MiningRecord, found: Found) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in data.facts.items())
    listed = f"<dl>{facts}</dl>" if facts else ""
    sentences = [*map(escape, data.excluded), *_oddities(found)]
    excluded = "".join(f"<li>{sentence}</li>" for sentence in sentences) or "<li>Nothing is said to be excluded.</li>"
    return (
        f"{listed}<h3>What was left out</h3><ul>{excluded}</ul>"
        '<p class="small">All figures on this page count every anchor'
        f"{', except the overlap, as said there' if any(s.overlap and s.overlap.sampled for s in found) else ''}. "
        "They are also in this file for a machine to read: the JSON in the element with the id <code>statistics</code>."
        "</p>"
    )


def _oddities(found: Found) -> list[str]:
    """What a miner never writes but a damaged file may hold."""
    sentences = []
    for statistics in found:
        title, scanned = statistics.direction.title, statistics.scan
        if scanned.unusable:
            sentences.append(
                f'<span class="bad">{title}: {words.plural(scanned.unusable, "entry").replace("entrys", "entries")} '
                "without a finite score or an existing candidate; treated as absent.</span>"
            )
        if scanned.unordered:
            anchors = words.plural(scanned.unordered, statistics.direction.anchor)
            sentences.append(
                f'<span class="bad">{title}: the scores of {anchors} rise along the list, which should begin with the '
                "hardest.</span>"
            )
    return sentences


def _lines(sentences: Iterable[str]) -> str:
    return "<br>".join(map(escape, sentences))


def _titles(found: Found) -> list[str]:
    return [statistics.direction.title for statistics in found]


def _advice(text: str) -> str:
    return f'<p class="advice"><b>What to do:</b> {text}</p>'
