"""The whole mining report: one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import json
from pathlib import Path

from aoq_ext._files import write_bytes_atomically
from aoq_ext.mining.statistics.data import MiningRecord
from aoq_ext.mining.statistics.summary import collect, for_machines
from aoq_ext.report.document import document
from aoq_ext.report.mined import sections
from aoq_ext.report.mined.style import MINED_STYLE


def render_mining_report(data: MiningRecord) -> str:
    """The page as text. The same data gives the same text, byte for byte."""
    found = collect(data)
    parts = (
        ("hardness", "How hard the negatives are", sections.hardness(found)),
        ("hubs", "Do a few candidates crowd the lists?", sections.hubness(data, found)),
        ("suspects", "Suspected false negatives", sections.suspects(data, found)),
        ("overlap", "Overlap with an earlier mining", sections.overlap(found)),
        ("making", "How it was made", sections.made(data, found)),
    )
    statistics = json.dumps(for_machines(data, found), ensure_ascii=False, allow_nan=False, indent=1)
    # Inside a script element only "<" can end it or open a comment; the escape means the same to every JSON parser.
    block = f'<script type="application/json" id="statistics">{statistics.replace("<", chr(92) + "u003c")}</script>'
    return document(data.title, sections.headline(data, found), parts, MINED_STYLE, block)


def write_mining_report(data: MiningRecord, path: str | Path) -> Path:
    """Render and write whole or not at all; returns the path."""
    return write_bytes_atomically(path, render_mining_report(data).encode())
