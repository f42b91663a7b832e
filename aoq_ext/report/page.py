"""The whole report: one HTML page that loads nothing from anywhere."""

from __future__ import annotations

from pathlib import Path

from aoq_ext._files import write_bytes_atomically
from aoq_ext.report import examples, prose, sections
from aoq_ext.report.data import ReportData
from aoq_ext.report.document import document


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
    return document("aoq_ext: online triplets and AOQ", sections.headline(data), parts)


def write_report(data: ReportData, path: str | Path) -> Path:
    """Render and write whole or not at all; returns the path."""
    return write_bytes_atomically(path, render_report(data).encode())
