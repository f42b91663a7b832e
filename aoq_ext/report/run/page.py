"""The page of `aoq demo`."""

from __future__ import annotations

from pathlib import Path

from aoq_ext.report.pages import render, write
from aoq_ext.report.run import words
from aoq_ext.report.run.data import ReportData
from aoq_ext.report.run.figures import similarity_histograms, training_curves


def render_report(data: ReportData) -> str:
    """The page as text. The same data gives the same text, byte for byte."""
    return render(
        "run.html",
        data=data,
        words=words,
        curves=training_curves(data.runs),
        histograms=similarity_histograms(data.runs),
    )


def write_report(data: ReportData, path: str | Path) -> Path:
    """Render and write whole or not at all; returns the path."""
    return write(render_report(data), path)
