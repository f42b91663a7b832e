"""The report's figures: training curves and similarity histograms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from aoq_ext.report.charts import BINS, Axis, Chart, linear_axis, log_axis, shares
from aoq_ext.report.run.data import Round
from aoq_ext.report.run.words import STYLES, the
from aoq_ext.report.words import listed

KINDS = ("positive", "online", "offline")
_RADII = {"round 1": 9, "round 2": 6, "control": 12}  # of rings that may lie in one place


def training_curves(runs: Mapping[str, Round]) -> list[Markup]:
    """Loss, then validation rsum and R@1 in both directions, every run in each panel.

    They are drawn over the pairs encoded, so that runs of equal cost are as long; a run that goes on from the weights
    of another begins where those were reached.
    """
    begins = {name: _begin(run, runs) for name, run in runs.items()}
    furthest = max(begins[name] + run.pairs_encoded for name, run in runs.items())
    x = linear_axis("pairs encoded", 0.0, float(furthest))
    places = {name: [float(begins[name] + pairs) for pairs in run.pairs] for name, run in runs.items()}
    losses = np.concatenate([run.loss for run in runs.values()])
    finite = losses[np.isfinite(losses) & (losses > 0)]
    bounds = (float(finite.min()), float(finite.max())) if finite.size else (0.1, 1.0)
    panels = [_curves("Training loss", log_axis("loss per pair", *bounds), x, runs, places, None)]
    for key, title, label in (
        ("rsum", "Validation rsum", "rsum (percent, at most 600)"),
        ("i2t_r1", "Validation R@1, image → caption", "images answered right (%)"),
        ("t2i_r1", "Validation R@1, caption → image", "captions answered right (%)"),
    ):
        top = max(float(np.nanmax(run.validation[key])) for run in runs.values())
        panels.append(_curves(title, linear_axis(label, 0.0, max(top, 1e-3)), x, runs, places, key))
    return panels


def _begin(run: Round, runs: Mapping[str, Round]) -> int:
    origin = runs.get(run.start)
    return 0 if origin is None else int(origin.pairs[origin.best_epoch - 1])


def _curves(
    title: str, y: Axis, x: Axis, runs: Mapping[str, Round], places: Mapping[str, list[float]], key: str | None
) -> Markup:
    """places: of the end of every epoch on the x axis"""
    panel = Chart(title, f"{title} over the pairs encoded by {listed(list(map(the, runs)))}", x, y)
    warmed_up = {
        (places[name][0] - float(run.pairs[0]), places[name][run.warmup_epochs - 1])
        for name, run in runs.items()
        if run.warmup_epochs
    }
    for start, end in sorted(warmed_up, reverse=True):
        panel.shade(start, end, "warm-up", label_at_top=key is not None)
    for name, run in runs.items():
        values = run.loss if key is None else run.validation[key]
        panel.line(places[name], [float(value) for value in values], STYLES[name])
        if key == "rsum":
            panel.ring(places[name][run.best_epoch - 1], float(values[run.best_epoch - 1]), STYLES[name], _RADII[name])
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
