"""The panels with pictures: hubs, and suspected false negatives."""

from __future__ import annotations

from html import escape

from aoq_ext.mining.statistics.data import MiningRecord
from aoq_ext.mining.statistics.summary import Statistics
from aoq_ext.mining.statistics.suspects import Case
from aoq_ext.report.mined.words import plural, score
from aoq_ext.report.pictures import picture

_LARGE, _SMALL = 192, 88  # pixels: twice the size on the page, for sharp screens
_MOST_LETTERS = 240
_OWN_CAPTIONS = 5


def caption_text(data: MiningRecord, text: int) -> str:
    """HTML: the caption, cut where it is very long, or its number where captions were not given."""
    if data.captions is None:
        return f"caption {text}"
    said = data.captions[text]
    if not said.strip():
        return '<span class="none">an empty caption</span>'
    return escape(said if len(said) <= _MOST_LETTERS else f"{said[:_MOST_LETTERS].rstrip()}…")


def image_name(data: MiningRecord, image: int) -> str:
    """Plain text."""
    return f"image {image}" if data.image_names is None else data.image_names[image] or f"image {image}"


def image_html(data: MiningRecord, image: int, mini: bool = False) -> str:
    """The picture, or nothing where there is none."""
    pixels = None if data.picture is None else data.picture(image)
    if pixels is None:
        return ""
    if pixels.ndim != 3 or pixels.shape[0] != 3 or str(pixels.dtype) != "uint8" or 0 in pixels.shape:
        raise ValueError(f"picture({image}): expected (3, H, W) uint8, got {pixels.shape} {pixels.dtype}")
    return picture(pixels, image_name(data, image), "mini" if mini else "", _SMALL if mini else _LARGE)


def hub_list(data: MiningRecord, statistics: Statistics) -> str:
    """The candidates that appear in the most lists."""
    direction, hubs = statistics.direction, statistics.hubs.hubs
    if not hubs.size:
        return ""
    counts = statistics.scan.occurrences
    article = "an" if direction.candidate == "image" else "a"
    lines = "".join(
        f"<li>{_hub(data, direction.candidate, int(hub))}"
        f'<span class="count">{plural(int(counts[hub]), "list")}</span></li>'
        for hub in hubs
    )
    return (
        f'<div class="card"><p class="small"><b>{escape(direction.title)}: most frequent {direction.candidate}s</b>, '
        f"of {plural(direction.anchor_count, 'list')}; on average {article} {direction.candidate} is in "
        f'{statistics.hubs.mean:,.1f}</p><ol class="answers">{lines}</ol></div>'
    )


def _hub(data: MiningRecord, kind: str, hub: int) -> str:
    if kind == "image":
        return f'{image_html(data, hub, mini=True)}<span class="text">{escape(image_name(data, hub))}</span>'
    owner = "" if data.text_image_index is None else image_html(data, int(data.text_image_index[hub]), mini=True)
    return f'{owner}<span class="text">{caption_text(data, hub)}</span>'


def suspect_cards(data: MiningRecord, statistics: Statistics) -> str:
    if statistics.suspects is None:
        return ""
    draw = _image_case if statistics.direction.key == "image_to_text" else _text_case
    return "".join(draw(data, case) for case in statistics.suspects.cases)


def _image_case(data: MiningRecord, case: Case) -> str:
    own = data.texts_of(case.anchor)
    lines = "".join(
        f"<li>{caption_text(data, int(text))}{_own_score(data, int(text))}</li>" for text in own[:_OWN_CAPTIONS]
    )
    more = f'<li class="small">and {plural(len(own) - _OWN_CAPTIONS, "caption")} more</li>' if len(own) > 5 else ""
    owner = _owner(data, case.candidate)
    return (
        f'<div class="card"><div class="query">{image_html(data, case.anchor)}<div>'
        f'<p class="small">{escape(image_name(data, case.anchor))}, best own caption {score(case.positive)}</p>'
        f'<ul class="own">{lines}{more}</ul></div></div>{_above(case, "caption")}'
        f'<ol class="answers"><li>{owner}<span class="text">{caption_text(data, case.candidate)}</span>'
        f'<span class="score">{score(case.score)}</span></li></ol></div>'
    )


def _text_case(data: MiningRecord, case: Case) -> str:
    own = "" if data.text_image_index is None else image_html(data, int(data.text_image_index[case.anchor]))
    captions = data.texts_of(case.candidate)
    example = f'<br><span class="small">{caption_text(data, int(captions[0]))}</span>' if len(captions) else ""
    return (
        f'<div class="card"><div class="query">{own}<div><p class="small">caption, with its own image '
        f'{score(case.positive)}</p><p class="said">{caption_text(data, case.anchor)}</p></div></div>'
        f'{_above(case, "image")}<ol class="answers"><li>{image_html(data, case.candidate, mini=True)}'
        f'<span class="text">{escape(image_name(data, case.candidate))}{example}</span>'
        f'<span class="score">{score(case.score)}</span></li></ol></div>'
    )


def _above(case: Case, candidate: str) -> str:
    others = (
        f"; so {'is' if case.suspects == 2 else 'are'} {plural(case.suspects - 1, 'more negative')}"
        if case.suspects > 1
        else ""
    )
    excess = score(case.score - case.positive)
    return f'<p class="small">listed as a wrong {candidate}, {excess} above the best own pair{others}</p>'


def _own_score(data: MiningRecord, text: int) -> str:
    if data.text_positive is None or not abs(float(data.text_positive[text])) < float("inf"):
        return ""
    return f' <span class="score">{score(float(data.text_positive[text]))}</span>'


def _owner(data: MiningRecord, text: int) -> str:
    return "" if data.text_image_index is None else image_html(data, int(data.text_image_index[text]), mini=True)
