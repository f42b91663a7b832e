"""The report's figures: training curves and similarity histograms."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from aoq_ext.report.charts import BINS, Axis, Chart, epoch_axis, linear_axis, log_axis, shares
from aoq_ext.report.run.data import Round
from aoq_ext.training.pair_sample import PairSimilarities

KINDS = ("positive", "online", "offline")


def training_curves(first: Round, second: Round) -> list[Markup]:
    """Loss, then validation rsum and R@1 in both directions, both rounds in each panel."""
    epochs = epoch_axis(max(len(first.loss), len(second.loss)))
    losses = np.concatenate([first.loss, second.loss])
    finite = losses[np.isfinite(losses) & (losses > 0)]
    bounds = (float(finite.min()), float(finite.max())) if finite.size else (0.1, 1.0)
    panels = [_curves("Training loss", log_axis("loss per pair", *bounds), epochs, first, second, None)]
    for key, title, label in (
        ("rsum", "Validation rsum", "rsum (percent, at most 600)"),
        ("i2t_r1", "Validation R@1, image → caption", "images answered right (%)"),
        ("t2i_r1", "Validation R@1, caption → image", "captions answered right (%)"),
    ):
        top = max(float(np.nanmax(run.validation[key])) for run in (first, second))
        panels.append(_curves(title, linear_axis(label, 0.0, max(top, 1e-3)), epochs, first, second, key))
    return panels


def _curves(title: str, y: Axis, x: Axis, first: Round, second: Round, key: str | None) -> Markup:
    panel = Chart(title, f"{title} over epochs, round 1 (dashed) and round 2 (solid)", x, y)
    for epochs in sorted({first.warmup_epochs, second.warmup_epochs} - {0}, reverse=True):
        panel.shade(0.5, epochs + 0.5, "warm-up", label_at_top=key is not None)
    for run, style, radius in ((first, "first", 9), (second, "second", 6)):
        values = run.loss if key is None else run.validation[key]
        panel.line(list(range(1, len(values) + 1)), [float(value) for value in values], style)
        if key == "rsum":
            panel.ring(run.best_epoch, float(values[run.best_epoch - 1]), style, radius)
    return panel.render()


def similarity_histograms(first: PairSimilarities, second: PairSimilarities) -> list[Markup]:
    """One panel a round, on the same axes."""
    everything = np.concatenate([getattr(run, name) for run in (first, second) for name in KINDS])
    x = linear_axis("similarity (dot product)", float(everything.min()), float(everything.max()), count=7)
    edges = np.linspace(x.low, x.high, BINS + 1)
    heights = [[shares(getattr(run, name), edges) for name in KINDS] for run in (first, second)]
    y = linear_axis("training pairs in the bin (%)", 0.0, float(np.max(heights)))
    panels = []
    for run, drawn, title in ((first, heights[0], "After round 1"), (second, heights[1], "After round 2")):
        panel = Chart(title, f"{title}: histograms of positive, online and offline negative similarity", x, y)
        for name, height in zip(KINDS, drawn, strict=True):
            panel.outline(edges, height, name)
        for name in KINDS:
            panel.rule(float(np.median(getattr(run, name))), name)
        panels.append(panel.render())
    return panels
