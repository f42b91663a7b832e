"""A chart is one drawing for light and dark, reads without the picture, and shares no name with another."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from aoq_ext.report.charts import SERIES, Chart, axis_text, linear_axis, log_axis, tick_text

HOSTILE = '<script>alert(1)</script> & "quoted" $x_1$'


def drawn(title: str = "Title") -> str:
    """One of every mark."""
    chart = Chart(title, f"{title} described", log_axis("batch", 1, 300), linear_axis("time", 0, 347))
    chart.shade(1, 10, title, label_at_top=True)
    for series in SERIES:
        chart.line([1, 3, 200], [1, 347, np.nan], series)
        chart.outline(np.array([1.0, 5, 10, 50]), np.array([20.0, 100, 60]), series)
    chart.band([1, 200], [10, 20], [50, 100], "offline")
    chart.ring(3, 300, "first", radius=9)
    chart.rule(50, "online")
    chart.level(100, title, "positive")
    return str(chart.render())


def test_a_chart_is_well_formed_and_described() -> None:
    root = ElementTree.fromstring(drawn())
    assert root.attrib == {
        "class": "panel", "viewBox": "0 0 440 290", "role": "img", "aria-label": "Title described",
    }  # fmt: skip
    assert {element.tag for element in root.iter()} == {"svg", "path", "text", "title"}
    tips = [element.text for element in root.iter("title")]
    assert tips == ["batch (log scale) 1: 1", "batch (log scale) 3: 347"] * len(SERIES)
    assert [text.text for text in root.iter("text") if text.get("class") == "title"] == ["Title"]


def test_colours_are_those_of_the_style_sheet_alone() -> None:
    svg = drawn()
    assert not re.search(r"#[0-9a-f]{3}|rgb|black|white", svg)
    for colour in ("ink", "soft", "line", "shade", "card", *(series.colour for series in SERIES.values())):
        assert f"var(--{colour})" in svg


def test_two_charts_share_no_name_and_nothing_is_loaded() -> None:
    svg = drawn()
    assert not re.search(r"\bid=|href|url\(|<defs|xmlns", svg)
    assert svg == drawn()


def test_text_is_text() -> None:
    root = ElementTree.fromstring(drawn(HOSTILE))
    assert [text.text for text in root.iter("text")].count(HOSTILE) == 3
    assert root.get("aria-label") == f"{HOSTILE} described"


def test_what_an_axis_cannot_show_is_left_out() -> None:
    chart = Chart("t", "d", linear_axis("x", 1, 4), log_axis("loss", 0.5, 300))
    chart.line([1, 2, 3, 4], [np.nan, 0, np.inf, 5], "first")
    chart.line([1, 2], [np.nan, -1], "second")
    assert [tip.text for tip in ElementTree.fromstring(chart.render()).iter("title")] == ["x 4: 5"]
    assert "nan" not in chart.render()


def test_axes_cover_the_data_with_round_ticks() -> None:
    axis = linear_axis("rsum", 0.0, 347.0)
    assert axis.low == 0.0
    assert axis.high == 400.0
    assert axis.ticks == (0.0, 100.0, 200.0, 300.0, 400.0)
    logarithmic = log_axis("loss", 0.3, 40.0)
    assert all(logarithmic.low <= tick <= logarithmic.high for tick in logarithmic.ticks)
    assert len(logarithmic.ticks) >= 4
    assert [tick_text(value) for value in (-0.4, 0.1 + 0.2, 0.0, 1200.0)] == ["−0.4", "0.3", "0", "1,200"]


@pytest.mark.parametrize(
    ("value", "text"), [(20_000, "20k"), (3e6, "3M"), (12_345, "12,345"), (-0.5, "−0.5"), (0, "0")]
)
def test_axis_text(value: float, text: str) -> None:
    assert axis_text(value) == text
