"""What the line styles of a figure stand for."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_DASHES = {
    "first": "6 4",
    "second": "none",
    "positive": "none",
    "online": "6 3",
    "offline": "2 2.5",
    "last": "10 3 2 3",
}


def legend(names: Mapping[str, str]) -> str:
    """A list of line samples; `names` maps the CSS class of a series to what it is."""
    items = "".join(
        f'<li><svg viewBox="0 0 34 12" aria-hidden="true"><line class="line {style}" x1="0" x2="34" y1="6" y2="6" '
        f'style="stroke-dasharray:{_DASHES[style]}"/></svg>{escape(name)}</li>'
        for style, name in names.items()
    )
    return f'<ul class="legend">{items}</ul>'
