"""The tables of `ladder.py`: what was seen here, beside what the paper reports."""

from __future__ import annotations

import math
import platform
import statistics
from dataclasses import dataclass
from typing import Any

import torch

from aoq_ext._machine import available_cores
from aoq_ext.training.config import ObjectiveName, TrainConfig

LADDER: tuple[ObjectiveName, ...] = ("online_triplet", "offline_triplet", "offline_quintuplet", "adaptive_quintuplet")
SPLITS = {
    "test": "unseen concepts, seen drawing styles",
    "test_openmoji": "unseen concepts, unseen drawing style",
    "test_style": "seen concepts, unseen drawing style",
}
MEASURE = "rsum"

Results = dict[
    str, dict[str, dict[str, list[dict[str, Any]]]]
]  # model -> objective -> split -> the result of each seed


@dataclass(frozen=True)
class LadderModel:
    title: str
    config: str  # in configs/emoji
    what: str


MODELS = {
    "vsepp": LadderModel("VSE++", "round1.yaml", "a global image vector of the whole grid, GRU text"),
    "vsrn": LadderModel(
        "VSRN", "vsrn-round1.yaml", "grid regions, four graph convolutions, GRU text; no captioning loss"
    ),
    "scan": LadderModel("SCAN", "scan-round1.yaml", "grid regions, text-image cross attention, LogSumExp"),
    "bfan": LadderModel("BFAN", "bfan-round1.yaml", "grid regions, focal attention, prob"),
}

# rsum of arXiv 2003.03669 by the rung of the ladder; None where only the ends were compared.
PAPER: dict[str, tuple[float | None, ...]] = {
    "COCO 1K, SCAN": (507.9, 508.5, 510.2, 511.2),
    "COCO 1K, BFAN": (510.7, 513.4, 514.7, 517.2),
    "COCO 1K, VSRN": (516.8, 518.6, 519.7, 521.4),
    "COCO 5K, SCAN": (410.9, None, None, 413.3),
    "COCO 5K, BFAN": (411.7, None, None, 422.9),
    "COCO 5K, VSRN": (415.7, None, None, 423.8),
    "Flickr30K 1K, SCAN": (465.0, None, None, 473.2),
    "Flickr30K 1K, BFAN": (470.4, None, None, 486.7),
    "Flickr30K 1K, VSRN": (482.6, None, None, 486.3),
}


def report(results: Results, seeds: int, configs: dict[str, TrainConfig]) -> str:
    """Markdown: rsum of every model and objective, the paper's beside it, then every model in detail."""
    lines = [
        "# The ablation ladder on the bundled data",
        "",
        f"`python benchmarks/ladder.py --seeds {seeds}`: {seeds} seeds (0 to {seeds - 1}). {platform.machine()}, "
        f"{available_cores()} CPU cores; Python {platform.python_version()}, torch {torch.__version__}.",
        "",
        *(_describe(MODELS[model], configs[model]) for model in results),
        "",
        "All four objectives of a model get the same number of steps. All models read the 4 × 4 grid of the same small "
        "convolutions, trained with the rest. rsum is the sum of R@1, R@5 and R@10 in both directions (600 at most): "
        "mean ± standard deviation over the seeds.",
        "",
    ]
    for split in SPLITS:
        lines += overview(results, split)
    lines += paper()
    lines += [
        "## In detail",
        "",
        "Paired differences of rsum (same seed) are given as mean ± standard error, Student's t with "
        f"{seeds - 1} degrees of freedom, and the number of seeds that gained.",
        "",
    ]
    for model in results:
        for split in SPLITS:
            lines += detail(results[model], model, split)
    return "\n".join(lines)


def _describe(model: LadderModel, config: TrainConfig) -> str:
    return (
        f"* {model.title}: {model.what}; {config.epochs} epochs, of which the first {config.warmup_epochs} with every "
        f"negative (configs/emoji/{model.config})"
    )


def overview(results: Results, split: str) -> list[str]:
    entry = next(iter(results.values()))[LADDER[0]][split][0]
    lines = [
        f"### {split}: {SPLITS[split]} ({entry['images']} images, {entry['captions']:,} captions)",
        "",
        _row(["rsum", *LADDER]),
        _row(["---"] * (1 + len(LADDER))),
    ]
    for model, by_objective in results.items():
        cells = [spread([entry[MEASURE] for entry in by_objective[objective][split]]) for objective in LADDER]
        lines.append(_row([MODELS[model].title, *cells]))
    return [*lines, ""]


def paper() -> list[str]:
    return [
        "### What the paper reports (arXiv 2003.03669), for comparison; nothing of it was reproduced here",
        "",
        _row(["rsum", *LADDER]),
        _row(["---"] * (1 + len(LADDER))),
        *(_row([name, *("–" if value is None else f"{value:.1f}" for value in row)]) for name, row in PAPER.items()),
        "",
    ]


def detail(results: dict[str, dict[str, list[dict[str, Any]]]], model: str, split: str) -> list[str]:
    """Mean ± standard deviation over the seeds, and paired differences with their standard error and signs."""
    lines = [
        f"### {MODELS[model].title}, {split}",
        "",
        _row(["objective", "rsum", "i2t R@1", "t2i R@1", "against the rung before", "against online_triplet"]),
        _row(["---"] * 6),
    ]
    for rung, objective in enumerate(LADDER):
        entries = results[objective][split]
        cells = [spread([entry[key] for entry in entries]) for key in (MEASURE, "i2t_r1", "t2i_r1")]
        for other in (LADDER[rung - 1], LADDER[0]) if rung else ():
            pairs = zip(entries, results[other][split], strict=True)
            cells.append(difference([mine[MEASURE] - theirs[MEASURE] for mine, theirs in pairs]))
        lines.append(_row([objective, *cells, *["–"] * (5 - len(cells))]))
    return [*lines, ""]


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def difference(values: list[float]) -> str:
    """Mean and its standard error over the seeds, Student's t, and how many seeds gained."""
    mean = statistics.mean(values)
    gained = f"{sum(value > 0 for value in values)} of {len(values)} seeds gained"
    if len(values) < 2 or statistics.stdev(values) == 0:
        return f"{mean:+.1f} ({gained})"
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.1f} ± {error:.1f} (t = {mean / error:.1f}; {gained})"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
