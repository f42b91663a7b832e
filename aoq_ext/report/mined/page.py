"""The page of `aoq mine --report`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from aoq_ext.mining.statistics import MiningRecord, collect, for_machines
from aoq_ext.mining.statistics.overlap import mean
from aoq_ext.mining.statistics.suspects import CASES_SHOWN
from aoq_ext.report.mined import figures, tables, words
from aoq_ext.report.pages import environment, render, write

environment.filters |= {
    name: getattr(words, name)
    for name in (
        "decimal",
        "hardness_takeaway",
        "hub_takeaway",
        "overlap_takeaway",
        "percent",
        "score",
        "suspects_takeaway",
    )
}


def render_mining_report(data: MiningRecord) -> str:
    """The page as text. The same data gives the same text, byte for byte."""
    found = collect(data)
    statistics = json.dumps(for_machines(data, found), ensure_ascii=False, allow_nan=False, indent=1)
    return render(
        "mined.html",
        data=data,
        found=found,
        figures=figures,
        tables=tables,
        words=words,
        mean=mean,
        is_finite=math.isfinite,
        most_cases=CASES_SHOWN,
        pixels=lambda image: _pixels(data, image),
        # Inside a script element only "<" can end it or open a comment; the escape means the same to a JSON parser.
        statistics=Markup(statistics.replace("<", "\\u003c")),
    )


def write_mining_report(data: MiningRecord, path: str | Path) -> Path:
    """Render and write whole or not at all; returns the path."""
    return write(render_mining_report(data), path)


def _pixels(data: MiningRecord, image: int) -> NDArray[np.uint8] | None:
    """(C, H, W), C = 1 or 3, or None where there is no picture to show."""
    pixels = None if data.picture is None else data.picture(int(image))
    if pixels is None or (pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.dtype == np.uint8 and pixels.size):
        return pixels
    raise ValueError(f"picture({image}): expected (C, H, W) uint8 with C = 1 or 3, got {pixels.shape} {pixels.dtype}")
