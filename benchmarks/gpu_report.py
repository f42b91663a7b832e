"""The tables and the plot of the GPU benchmark, from its raw results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpu_targets import COMPILED, EAGER, MM, OURS, PRODUCT, TARGETS, Values, values_of

from aoq_ext.report.charts import Chart, log_axis
from aoq_ext.report.pages import environment

# How each form is drawn (aoq_ext/report/charts.py).
STYLES = {OURS: "positive", EAGER: "first", COMPILED: "second", MM: "online", PRODUCT: "offline"}
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OPERANDS = 6
# Rows that no form can avoid to read or write, in units of all six operands.
PASSES = {"forward": 1, "backward": 2, "both": 3}


def tables(report: dict[str, Any]) -> str:
    """Markdown: the targets, then every measurement."""
    values = values_of(report["records"])
    bandwidth = report["copy_bandwidth"]
    lines = [
        "# Loss on a GPU",
        "",
        ", ".join(f"{name} {value}" for name, value in report["environment"].items()) + ".",
        f"A copy moves {bandwidth / 1e12:.2f} TB/s, bytes read and written. Times are medians of single runs between "
        "two events, in milliseconds; random unit rows; float32 without TF32. TFLOP/s counts 2·B²·D, GB/s the rows "
        "read and gradients written that no form can avoid.",
        "",
        "## Targets",
        "",
        "| target | bound | measured | |",
        "|---|---|---|---|",
    ]
    for target in TARGETS:
        value, verdict = target.judge(values)
        sign = "≥" if target.at_least else "≤"
        shown = "" if value is None else f"{value:.3g}"
        lines.append(f"| {target.name} | {sign} {target.bound:g} | {shown} | {verdict} |")
    for part in PASSES:
        lines += ["", f"## {part.capitalize()}", "", *part_table(report["records"], values, bandwidth, part)]
    lines += ["", "## Memory and launches", "", *resource_table(report["records"])]
    notes = [f"{name_of(record)}: {record['note']}" for record in report["records"] if record["note"]]
    if notes:
        lines += ["", "## Without result", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def name_of(record: dict[str, Any]) -> str:
    return f"{record['dtype']}, {record['count']} × {record['width']}, {record['form']}"


def part_table(records: Sequence[dict[str, Any]], values: Values, bandwidth: float, part: str) -> list[str]:
    lines = [
        "| dtype, B × D, form | ms | TFLOP/s | GB/s | of the bare product | of the copy | aoq_ext is faster by |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in sorted(records, key=lambda r: (r["dtype"], r["width"], r["count"])):
        seconds = record["values"].get(part)
        if not seconds:
            continue
        dtype, count, width, form = (record[key] for key in ("dtype", "count", "width", "form"))
        product = values.get((dtype, count, width, PRODUCT, "forward"))
        ours = values.get((dtype, count, width, OURS, part))
        traffic = PASSES[part] * OPERANDS * count * width * ELEMENT_BYTES[dtype] / seconds
        rows = [
            f"{seconds * 1e3:.4g}",
            "" if part == "backward" else f"{2 * count**2 * width / seconds / 1e12:.3g}",
            "" if form == PRODUCT else f"{traffic / 1e9:.3g}",
            "" if product is None or part == "backward" else f"{product / seconds:.3f}",
            "" if form == PRODUCT else f"{traffic / bandwidth:.3f}",
            "" if ours is None or form == OURS else f"{seconds / ours:.2f}×",
        ]
        lines.append(f"| {name_of(record)} | " + " | ".join(rows) + " |")
    return lines


def resource_table(records: Sequence[dict[str, Any]]) -> list[str]:
    """Wall clock and graph replay where they were measured: small batches."""
    lines = [
        "| dtype, B × D, form | extra MiB | bytes per pair | kernels | wall ms | graph replay ms |",
        "|---|---|---|---|---|---|",
    ]

    def shown(value: float | None, scale: float, digits: int) -> str:
        return "" if value is None else f"{value * scale:.{digits}f}"

    for record in sorted(records, key=lambda r: (r["dtype"], r["width"], r["count"])):
        found = record["values"]
        if "both" not in found:
            continue
        cells = (
            shown(found.get("extra"), 2**-20, 2),
            shown(found.get("extra"), 1 / record["count"], 1),
            shown(found.get("kernels"), 1, 0),
            shown(found.get("wall"), 1e3, 4),
            shown(found.get("replay"), 1e3, 4),
        )
        lines.append(f"| {name_of(record)} | " + " | ".join(cells) + " |")
    return lines


PAGE = """
{% extends "base.html" %}
{% from "parts.html" import figure %}
{% set kind, title = "benchmark", "Loss on a GPU" %}
{% set sections = {"times": "Time against the batch size"} %}
{% block header %}<h1>{{ title }}</h1>{% endblock %}
{% block times %}{% call figure(panels, names) %}{{ facts }}{% endcall %}{% endblock %}
"""


def page(report: dict[str, Any]) -> str:
    """Self-contained HTML: time against B, a panel a dtype; the bare product is the floor."""
    panels = [panel(report["records"], dtype) for dtype in ELEMENT_BYTES]
    return environment.from_string(PAGE).render(
        panels=[drawn for drawn in panels if drawn],
        names={name: form for form, name in STYLES.items()},
        facts=", ".join(f"{name} {value}" for name, value in report["environment"].items()),
    )


def panel(records: Sequence[dict[str, Any]], dtype: str) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        seconds = record["values"].get("forward" if record["form"] == PRODUCT else "both")
        if record["dtype"] == dtype and record["width"] == 1024 and record["form"] in STYLES and seconds:
            series.setdefault(record["form"], []).append((record["count"], seconds * 1e3))
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    counts, times = zip(*points)
    title = f"Forward + backward, {dtype}, D = 1024"
    y = log_axis("milliseconds", min(times), max(times))
    chart = Chart(title, f"{title}: time against the batch size", log_axis("B", min(counts), max(counts)), y)
    for form, line in series.items():
        xs, ys = zip(*sorted(line))
        chart.line(xs, ys, STYLES[form])
    return chart.render()
