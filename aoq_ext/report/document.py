"""The frame of every report: one HTML page that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from aoq_ext.report.style import STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

Part = tuple[str, str, str]  # name for links, title, HTML


def document(title: str, header: str, parts: Sequence[Part], style: str = STYLE, after: str = "") -> str:
    """A whole page. `header` is the HTML above the links to the parts; `after` follows the last part."""
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name, *_ in parts)
    body = "".join(f'<section id="{name}"><h2>{heading}</h2>{html}</section>\n' for name, heading, html in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>"
        f"<header>{header}<nav>{links}</nav></header>\n<main>{body}</main>"
        "<footer>Written by aoq_ext. This page is one file: it can be mailed, archived and printed.</footer>"
        f"{after}</body></html>\n"
    )
