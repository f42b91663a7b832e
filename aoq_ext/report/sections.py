"""The report's sections made of words, tables and figures; each function returns HTML."""

from __future__ import annotations

from html import escape

from aoq_ext.report import words
from aoq_ext.report.charts import SERIES, similarity_histograms, training_curves
from aoq_ext.report.data import ReportData, Split
from aoq_ext.report.legend import legend

_LOWER_IS_BETTER = ("medr",)
_SERIES_NAMES = {
    "positive": "positive: image and its own caption",
    "online": "online negative: hardest wrong caption of a random batch",
    "offline": "offline negative: drawn from the image’s mined list",
}


def headline(data: ReportData) -> str:
    first, second = data.rounds
    tiles = "".join(_tile(split) for split in data.splits)
    return (
        f'<p class="eyebrow">aoq_ext demo · {escape(data.date)} · seed {data.seed}</p>'
        "<h1>Does training against offline-mined negatives help?</h1>"
        f'<p class="lede">A small image encoder and a small text encoder were trained twice from random weights on '
        f"{data.train_images:,} images with {data.train_captions:,} captions ({escape(data.dataset)}). Round 1, with "
        f"{escape(first.label)}, ran for {len(first.loss)} epochs; its model then named the hardest negatives in the "
        f"whole training set; round 2, with {escape(second.label)} (AOQ), ran for {len(second.loss)} epochs against "
        "them. "
        f"{escape(words.overall(data))}</p>"
        f'<div class="tiles">{tiles}</div>{_timeline(data)}'
    )


def _tile(split: Split) -> str:
    difference = words.rsum_difference(split)
    colour = _judgement(difference)[0] if words.is_clear(split) else ""
    return (
        f'<div class="tile"><h3>{escape(split.title)} <span class="small">({escape(split.name)})</span></h3>'
        f'<p class="figures"><small>rsum</small> {split.before["rsum"]:.1f} → {split.after["rsum"]:.1f} '
        f'<span class="{colour}">{words.signed(difference)}</span></p>'
        f'<p class="small">{escape(words.certainty(split))}.</p></div>'
    )


def _timeline(data: ReportData) -> str:
    styles = {name: style for name, style in zip(data.seconds, ("first", "", "second"), strict=False)}
    total = sum(data.seconds.values())
    bars = "".join(
        f'<span class="{styles.get(step, "")}" style="flex:{seconds:.2f}" title="{escape(step)}"></span>'
        for step, seconds in data.seconds.items()
    )
    steps = "".join(
        f'<li><span class="chip {styles.get(step, "")}"></span>{escape(step)}: {words.duration(seconds)}</li>'
        for step, seconds in data.seconds.items()
    )
    return (
        f'<figure><div class="steps" role="img" aria-label="time taken by each step">{bars}</div>'
        f'<ol class="legend">{steps}</ol><figcaption>Time taken, {words.duration(total)} in all, on '
        f"{escape(data.machine)}.</figcaption></figure>"
    )


def metrics_section(data: ReportData) -> str:
    tables = "".join(f'<div class="card">{_metrics_table(split)}</div>' for split in data.splits)
    return (
        "<p><b>R@k</b> is the percentage of queries with a right answer among the first k; <b>median rank</b> is the "
        "rank of the first right answer for the middle query, so lower is better; <b>rsum</b> is the sum of the six "
        f'recalls, at most 600.</p><figure><div class="tables">{tables}</div>'
        f"<figcaption>{_metrics_caption(data)}</figcaption></figure>"
    )


def _metrics_table(split: Split) -> str:
    rows = []
    for way, title in (("i2t", "image → caption"), ("t2i", "caption → image")):
        rows.append(f'<tr class="way"><th colspan="4" scope="colgroup">{title}</th></tr>')
        rows.extend(_metrics_row(split, f"{way}_{key}", name) for key, name in words.MEASURES.items())
    rows.append(_metrics_row(split, "rsum", "rsum", "total"))
    return (
        f"<table><caption>{escape(split.title)} <span class='small'>{escape(split.name)}: {split.images:,} images, "
        f"{split.captions:,} captions</span></caption><thead><tr><th></th><th scope='col'>round 1<br>online</th>"
        f"<th scope='col'>round 2<br>AOQ</th><th scope='col'>difference</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _metrics_row(split: Split, key: str, name: str, style: str = "") -> str:
    before, after = split.before[key], split.after[key]
    digits = 0 if key.endswith("medr") else 1
    better = (before - after) if key.endswith(_LOWER_IS_BETTER) else (after - before)
    colour, word = _judgement(better)
    return (
        f'<tr class="{style}"><th scope="row">{name}</th><td>{before:.{digits}f}</td><td>{after:.{digits}f}</td>'
        f'<td class="{colour}">{words.signed(after - before, digits)}<small>{word}</small></td></tr>'
    )


def _judgement(better: float) -> tuple[str, str]:
    """CSS class and word for a gain of `better`, judged as it is printed."""
    rounded = round(better, 1)
    return ("good", "better") if rounded > 0 else ("bad", "worse") if rounded < 0 else ("", "same")


def _metrics_caption(data: ReportData) -> str:
    parts = [
        f"On {escape(split.title)}, round 2’s rsum is {words.compared(words.rsum_difference(split))}; "
        f"a random order would score {words.chance_rsum(split):.1f}."
        for split in data.splits
    ]
    return (
        f"<b>{' '.join(parts)}</b> Both models are the best epoch on the validation set; neither has seen these images."
    )


def curves_section(data: ReportData) -> str:
    panels = "".join(training_curves(*data.rounds))
    key = legend({"first": f"round 1, {data.rounds[0].label}", "second": f"round 2, {data.rounds[1].label}"})
    return (
        f'<figure>{key}<div class="grid">{panels}</div>'
        f"<figcaption><b>{words.curves_takeaway(*data.rounds)}</b> Rings mark the epochs whose weights are evaluated. "
        "In the shaded warm-up the online hinge runs over <em>all</em> negatives of the batch instead of the hardest, "
        "which keeps a model with random weights from collapsing; there are no offline terms yet, so both rounds begin "
        "alike. Losses of different objectives sum different terms: only the shape of a loss curve can be compared, "
        "not its height."
        "</figcaption></figure>"
    )


def similarity_section(data: ReportData) -> str:
    first, second = (run.similarities for run in data.rounds)
    panels = "".join(similarity_histograms(first, second))
    key = legend({name: _SERIES_NAMES[name] for name in SERIES})
    return (
        f'<figure>{key}<div class="grid">{panels}</div>'
        f"<figcaption><b>{words.similarity_takeaway(first, second)}</b> Both panels show the same "
        f"{len(first.positive):,} training pairs with the same negatives; upright lines are medians. The offline "
        "negatives were chosen because round 1’s model rated them high, so part of any fall between the panels is a "
        "return to the mean: a new model would rate them lower even without being trained against them."
        "</figcaption></figure>"
    )


def config_section(data: ReportData) -> str:
    first, second = (words.flattened(run.config) for run in data.rounds)
    names = list(dict.fromkeys([*first, *second]))
    differing = [name for name in names if first.get(name) != second.get(name)]
    same = [name for name in names if name not in differing]
    rows = "".join(
        f'<tr{style}><th scope="row">{escape(name)}{mark}</th>'
        f"<td>{escape(first.get(name, '—'))}</td><td>{escape(second.get(name, '—'))}</td></tr>"
        for group, style, mark in ((differing, ' class="differs"', " ≠"), (same, "", ""))
        for name in group
    )
    versions = "".join(f"<dt>{escape(name)}</dt><dd>{escape(version)}</dd>" for name, version in data.versions.items())
    return (
        f"<dl><dt>machine</dt><dd>{escape(data.machine)}</dd>{versions}<dt>seed</dt><dd>{data.seed}</dd></dl>"
        f"<details><summary>All settings of both rounds ({len(differing)} differ, marked ≠ and listed first)</summary>"
        f'<div class="scroll"><table><thead><tr><th>setting</th><th>round 1</th><th>round 2</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )
