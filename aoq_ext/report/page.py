"""The whole report: one HTML page that loads nothing from anywhere."""

from __future__ import annotations

from pathlib import Path

from aoq_ext._files import write_bytes_atomically
from aoq_ext.report import examples, prose, sections
from aoq_ext.report.data import ReportData
from aoq_ext.report.style import STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_report(data: ReportData) -> str:
    """The page as text. The same data gives the same text, byte for byte."""
    parts = (
        ("results", "Retrieval, before and after", sections.metrics_section(data)),
        ("method", "The method", prose.METHOD),
        ("training", "How training went", sections.curves_section(data)),
        ("similarity", "What happened to the negatives", sections.similarity_section(data)),
        ("mined", "Negatives that were mined", examples.mined_section(data)),
        ("gallery", "Gallery: what the model answers", examples.gallery_section(data)),
        ("limits", "What these figures do not show", prose.caveats(data)),
        ("settings", "Settings and versions", sections.config_section(data)),
    )
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name, *_ in parts)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{content}</section>\n' for name, title, content in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>aoq_ext: online triplets and AOQ</title><style>{STYLE}</style></head>\n<body>"
        f"<header>{sections.headline(data)}<nav>{links}</nav></header>\n<main>{body}</main>"
        "<footer>Written by aoq_ext. This page is one file: it can be mailed, archived and printed.</footer>"
        "</body></html>\n"
    )


def write_report(data: ReportData, path: str | Path) -> Path:
    """Render and write whole or not at all; returns the path."""
    return write_bytes_atomically(path, render_report(data).encode())
