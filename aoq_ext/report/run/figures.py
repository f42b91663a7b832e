"""The report's figures: training curves and similarity histograms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from aoq_ext.report.charts import BINS, Axis, Chart, epoch_axis, linear_axis, log_axis, shares
from aoq_ext.report.run.data import Round
from aoq_ext.report.run.words import STYLES, the
from aoq_ext.report.words import listed

KINDS = ("positive", "online", "offline")
_RADII = {"round 1": 9, "round 2": 6, "control": 12}  # of rings that may lie in one place


def training_curves(runs: Mapping[str, Round]) -> list[Markup]:
    """Loss, then validation rsum and R@1 in both directions, every run in each panel."""
    epochs = epoch_axis(max(len(run.loss) for run in runs.values()))
    losses = np.concatenate([run.loss for run in runs.values()])
    finite = losses[np.isfinite(losses) & (losses > 0)]
    bounds = (float(finite.min()), float(finite.max())) if finite.size else (0.1, 1.0)
    panels = [_curves("Training loss", log_axis("loss per pair", *bounds), epochs, runs, None)]
    for key, title, label in (
        ("rsum", "Validation rsum", "rsum (percent, at most 600)"),
        ("i2t_r1", "Validation R@1, image → caption", "images answered right (%)"),
        ("t2i_r1", "Validation R@1, caption → image", "captions answered right (%)"),
    ):
        top = max(float(np.nanmax(run.validation[key])) for run in runs.values())
        panels.append(_curves(title, linear_axis(label, 0.0, max(top, 1e-3)), epochs, runs, key))
    return panels


def _curves(title: str, y: Axis, x: Axis, runs: Mapping[str, Round], key: str | None) -> Markup:
    panel = Chart(title, f"{title} over the epochs of {listed(list(map(the, runs)))}", x, y)
    for epochs in sorted({run.warmup_epochs for run in runs.values()} - {0}, reverse=True):
        panel.shade(0.5, epochs + 0.5, "warm-up", label_at_top=key is not None)
    for name, run in runs.items():
        values = run.loss if key is None else run.validation[key]
        panel.line(list(range(1, len(values) + 1)), [float(value) for value in values], STYLES[name])
        if key == "rsum":
            panel.ring(run.best_epoch, float(values[run.best_epoch - 1]), STYLES[name], _RADII[name])
    return panel.render()


def similarity_histograms(runs: Mapping[str, Round]) -> list[Markup]:
    """One panel a run, on the same axes."""
    similarities = {name: run.similarities for name, run in runs.items()}
    everything = np.concatenate([getattr(run, kind) for run in similarities.values() for kind in KINDS])
    x = linear_axis("similarity (dot product)", float(everything.min()), float(everything.max()), count=7)
    edges = np.linspace(x.low, x.high, BINS + 1)
    heights = {name: [shares(getattr(run, kind), edges) for kind in KINDS] for name, run in similarities.items()}
    y = linear_axis("training pairs in the bin (%)", 0.0, float(np.max(list(heights.values()))))
    panels = []
    for name, run in similarities.items():
        title = f"After {the(name)}"
        panel = Chart(title, f"{title}: histograms of positive, online and offline negative similarity", x, y)
        for kind, height in zip(KINDS, heights[name], strict=True):
            panel.outline(edges, height, kind)
        for kind in KINDS:
            panel.rule(float(np.median(getattr(run, kind))), kind)
        panels.append(panel.render())
    return panels
