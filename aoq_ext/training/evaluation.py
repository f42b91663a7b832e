"""Retrieval metrics of a model on a split, and of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from aoq_ext._files import write_bytes_atomically
from aoq_ext.metrics import retrieval_metrics
from aoq_ext.training.config import ConfigError
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.model import DualEncoder, embed_images, embed_texts
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.run import RunFiles


def evaluate(model: DualEncoder, pairs: EncodedPairs, folds: int = 1) -> dict[str, float]:
    images = embed_images(model, pairs.data.images)
    texts = embed_texts(model, pairs.tokens, pairs.lengths)
    return retrieval_metrics(images, texts, torch.from_numpy(pairs.caption_image).to(images.device), folds=folds)


def evaluate_run(run: str | Path | LoadedRun, split: str, folds: int = 1) -> dict[str, Any]:
    """Evaluate a run's weights (its best, given a folder) on ``split``; also noted in the run's ``metrics.json``.

    Returns the metrics with what they were measured on: ``dataset``, ``images``, ``captions``, ``folds``, and which
    ``weights`` (of which ``epoch``).
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(run)
    path = RunFiles(loaded.folder).metrics
    _noted(path)  # a damaged file is refused before the work
    pairs = EncodedPairs(load_split(loaded.config.data, split), loaded.vocabulary)
    result: dict[str, Any] = {
        "dataset": pairs.data.name,
        "images": len(pairs.data.images),
        "captions": len(pairs.data.captions),
        "folds": folds,
        "weights": loaded.which,
        "epoch": loaded.epoch,
        **evaluate(loaded.model, pairs, folds),
    }
    write_bytes_atomically(path, json.dumps({**_noted(path), split: result}, indent=2).encode() + b"\n")
    return result


def _noted(path: Path) -> dict[str, Any]:
    """What ``metrics.json`` holds so far."""
    try:
        known = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"run: {path} is not valid JSON ({error}); delete it and evaluate again") from error
    if not isinstance(known, dict):
        raise ConfigError(
            f"run: expected results by split in {path}, got a {type(known).__name__}; delete it and evaluate again"
        )
    return known


def describe_protocol(result: dict[str, Any]) -> str:
    """One sentence saying what the numbers mean."""
    folds = "" if result["folds"] == 1 else f", in {result['folds']} folds, averaged"
    return (
        f"{result['dataset']}: {result['images']:,} images and all their {result['captions']:,} captions{folds}; "
        f"an image counts as found at its best-ranked own caption; ties count against the query; "
        f"weights of epoch {result['epoch']}"
    )


def print_results(results: dict[str, dict[str, Any]], console: Console | None = None) -> None:
    """A table with one row per split, and the protocol under it."""
    console = console or Console()
    table = Table(show_edge=False)
    table.add_column("split")
    for direction in ("image to text", "text to image"):
        for column in ("R@1", "R@5", "R@10", "median"):
            table.add_column(f"{direction}\n{column}" if column == "R@1" else f"\n{column}", justify="right")
    table.add_column("\nrsum", justify="right")
    for split, result in results.items():
        cells = [f"{result[f'{way}_{key}']:.1f}" for way in ("i2t", "t2i") for key in ("r1", "r5", "r10", "medr")]
        table.add_row(split, *cells, f"{result['rsum']:.1f}")
    console.print(table)
    for result in results.values():
        console.print(describe_protocol(result), highlight=False, soft_wrap=True)
