"""The panels with pictures: mined negatives and the retrieval gallery."""

from __future__ import annotations

from html import escape

from aoq_ext.report.data import Answer, MinedImage, Query, ReportData
from aoq_ext.report.pictures import picture
from aoq_ext.report.words import number

ANSWERS_SHOWN = 5
_MARKS = "✓ and a tinted line or frame mark right answers; numbers are similarities"


def mined_section(data: ReportData) -> str:
    cards = "".join(_mined_card(mined) for mined in data.mined)
    return (
        "<p>After round 1 every training image was scored against every training caption, and every caption against "
        f"every image. Kept: the {data.mined_texts_per_image} highest-scoring wrong captions of each image and the "
        f"{data.mined_images_per_text} highest-scoring wrong images of each caption. Round 2 draws its offline "
        "negatives from these lists.</p>"
        f'<figure><div class="cards">{cards}</div><figcaption>{len(data.mined)} training images drawn at random '
        f"(seed {data.seed}), each with its own caption and the hardest captions mined for it, beside the picture each "
        "really belongs to. <b>Numbers are similarities in round 1’s model.</b> Some of these captions also fit the "
        "image: “wrong” only means that the data set gives them to another group of pictures.</figcaption></figure>"
    )


def _mined_card(mined: MinedImage) -> str:
    negatives = "".join(_mined_line(answer) for answer in mined.negatives)
    return (
        f'<div class="card"><div class="query">{picture(mined.item.image, mined.item.name)}<div>'
        f'<p class="small">its own caption, {number(mined.score, 2)}</p>'
        f'<p class="said">{escape(mined.item.caption)}</p></div></div>'
        f'<p class="small">hardest wrong captions</p><ol class="answers">{negatives}</ol></div>'
    )


def _mined_line(answer: Answer) -> str:
    owner = picture(answer.item.image, f"belongs to: {answer.item.name}", "mini")
    return (
        f'<li>{owner}<span class="text">{escape(answer.item.caption)}</span>'
        f'<span class="score">{number(answer.score, 2)}</span></li>'
    )


def gallery_section(data: ReportData) -> str:
    split = next(split for split in data.splits if split.name == data.gallery_split)
    rule = (
        f"Drawn at random (seed {data.seed}) from {escape(split.name)} ({escape(split.title)}), half from the queries "
        "that round 2’s model answers right at once and half from those it does not, as far as there are any."
    )
    images = "".join(_image_query(query) for query in data.image_queries)
    captions = "".join(_caption_query(query) for query in data.caption_queries)
    return (
        f'<h3>Which caption belongs to this image?</h3><figure><div class="cards">{images}</div><figcaption>'
        f"{rule} <b>So half and half here says nothing about how often it is right: over all queries R@1 is "
        f"{split.after['i2t_r1']:.1f} %.</b> {_MARKS}.</figcaption></figure>"
        f'<h3>Which image belongs to this caption?</h3><figure><div class="cards">{captions}</div><figcaption>'
        f"{rule} <b>Over all queries R@1 is {split.after['t2i_r1']:.1f} %.</b> {_MARKS}.</figcaption></figure>"
    )


def _image_query(query: Query) -> str:
    answers = "".join(
        f'<li{_right(answer)}><span class="mark">{_mark(answer)}</span>'
        f'<span class="text">{escape(answer.item.caption)}</span>'
        f'<span class="score">{number(answer.score, 2)}</span></li>'
        for answer in query.answers
    )
    own = f'<p class="small">one of its own: {escape(query.item.caption)}</p>' if query.rank > ANSWERS_SHOWN else ""
    return (
        f'<div class="card"><div class="query">{picture(query.item.image, query.item.name)}'
        f'<div>{_outcome(query)}{own}</div></div><ol class="answers">{answers}</ol></div>'
    )


def _caption_query(query: Query) -> str:
    found = "".join(
        f"<li{_right(answer)}>{picture(answer.item.image, answer.item.name)}"
        f'<div class="score">{_mark(answer)} {number(answer.score, 2)}</div></li>'
        for answer in query.answers
    )
    wanted = picture(query.item.image, f"right answer: {query.item.name}") if query.rank > ANSWERS_SHOWN else ""
    label = '<p class="small">← the right image</p>' if wanted else ""
    return (
        f'<div class="card"><div class="query">{wanted}<div>{_outcome(query)}'
        f'<p class="said">“{escape(query.item.caption)}”</p>{label}</div></div><ol class="found">{found}</ol></div>'
    )


def _outcome(query: Query) -> str:
    style, verdict = ("good", "✓ right at once") if query.rank == 1 else ("bad", f"✗ right answer at rank {query.rank}")
    return f'<span class="tag {style}">{verdict}</span> <span class="small">round 1: rank {query.rank_before}</span>'


def _right(answer: Answer) -> str:
    return ' class="right"' if answer.right else ""


def _mark(answer: Answer) -> str:
    return '<span role="img" aria-label="right">✓</span>' if answer.right else ""
