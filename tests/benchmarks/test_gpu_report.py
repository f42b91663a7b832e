"""The page of the GPU benchmark: a chart for each dtype that was measured, and nothing loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gpu_report import STYLES, page


def test_page_has_a_chart_for_each_measured_dtype() -> None:
    records = [
        {"dtype": dtype, "count": count, "width": 1024, "form": form, "values": {"both": 1e-6 * count, "forward": 1e-7}}
        for dtype in ("float32", "bfloat16")
        for count in (128, 512)
        for form in STYLES
    ]
    text = page({"records": records, "environment": {"device": "<b>one</b>"}})
    assert text.count('class="panel"') == 2
    assert "device &lt;b&gt;one&lt;/b&gt;" in text
    assert all(f"</svg>{form}</li>" in text for form in STYLES)
    assert "src=" not in text and "url(" not in text
