"""Retrieval metrics of a model on a split, of a finished run, and of several runs together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aoq_ext._files import write_json
from aoq_ext._scalars import as_int, check_list
from aoq_ext.metrics import RetrievalRanks, ranks_from_embeddings, ranks_from_scores
from aoq_ext.parallel import ALONE, Processes
from aoq_ext.training.config import ConfigError
from aoq_ext.training.encode import EncodedSplit
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.model import Model
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.run import RunFiles


def evaluate(model: Model, pairs: EncodedPairs, folds: int = 1, processes: Processes = ALONE) -> dict[str, float]:
    """The metrics of ``model`` on ``pairs``; with ``processes``, which all call this, each does a share."""
    ranks = _ranker([model], [pairs], processes=processes)
    return processes.by_leader("evaluating", lambda: ranks(folds=folds).metrics())


def evaluate_run(
    run: str | Path | LoadedRun,
    split: str,
    folds: int = 1,
    resamples: int = 0,
    level: float = 0.95,
    seed: int = 0,
    note: bool = True,
) -> dict[str, Any]:
    """Evaluate a run's weights (its best, given a folder) on ``split``; with ``note``, see `note_result`.

    Returns the metrics with what they were measured on: ``dataset``, ``images``, ``captions``, ``folds``, and which
    ``weights`` (of which ``epoch``). With ``resamples``, ``intervals`` as `RetrievalRanks.report` has them.
    """
    return evaluate_folds(run, split, [folds], note, resamples=resamples, level=level, seed=seed)[0]


def evaluate_folds(
    run: str | Path | LoadedRun, split: str, folds: Sequence[int], note: bool = True, **intervals: Any
) -> list[dict[str, Any]]:
    """What `evaluate_run` returns for each number of folds; the split is encoded, and scored, once for all.

    ``intervals``: the resamples, level and seed of `RetrievalRanks.report`.
    """
    loaded = _loaded(run)
    _noted(RunFiles(loaded.folder).metrics)  # a damaged file is refused before the work
    results = []
    for result in _measure([loaded], split, folds, **intervals):
        results.append({**result.pop("data"), "weights": loaded.which, "epoch": loaded.epoch, **result})
        if note:
            note_result(loaded.folder, split, results[-1])
    return results


def note_result(run: str | Path, split: str, result: dict[str, Any]) -> None:
    """Put a result of `evaluate_run` into the run's ``metrics.json``."""
    path = RunFiles(run).metrics
    write_json(path, {**_noted(path), split: result})


def evaluate_ensemble(
    runs: Sequence[str | Path | LoadedRun],
    split: str,
    folds: int = 1,
    weights: Sequence[float] | None = None,
    resamples: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate runs whose scores are averaged, by ``weights`` if given, on the split that they all have.

    Returns what `evaluate_run` does, with a list of ``runs``, each with its ``weights`` and ``epoch``. It is the result
    of no single run, so no run's ``metrics.json`` notes it.
    """
    check_list("runs", runs, "runs")
    loaded = [_loaded(run) for run in runs]
    if not loaded:
        raise ValueError("runs: expected at least one, got none")
    (result,) = _measure(loaded, split, [folds], weights, resamples=resamples, level=level, seed=seed)
    members = [{"run": str(run.folder), "weights": run.which, "epoch": run.epoch} for run in loaded]
    return {**result.pop("data"), "runs": members, "score_weights": weights and list(weights), **result}


def _measure(
    runs: Sequence[LoadedRun],
    split: str,
    folds: Sequence[int],
    weights: Sequence[float] | None = None,
    **intervals: Any,
) -> list[dict[str, Any]]:
    """The metrics of ``runs`` together for each number of folds, and under ``data`` what they were measured on."""
    pairs = [EncodedPairs(load_split(run.config.data, split), run.vocabulary) for run in runs]
    for run, other in zip(runs[1:], pairs[1:], strict=True):
        _check_same_data(runs[0], pairs[0], run, other)
    folds = [as_int("folds", number) for number in folds]
    ranks = _ranker([run.model for run in runs], pairs, weights)
    data = pairs[0].data
    described = {"dataset": data.name, "images": len(data.images), "captions": len(data.captions)}
    return [{"data": {**described, "folds": number}, **ranks(folds=number).report(**intervals)} for number in folds]


def _ranker(
    models: Sequence[Model],
    pairs: Sequence[EncodedPairs],
    weights: Sequence[float] | None = None,
    processes: Processes = ALONE,
) -> Callable[..., RetrievalRanks]:
    """``folds`` -> ranks, of all models together: by their embeddings, if all have them, else by all scores."""
    owners = torch.from_numpy(pairs[0].caption_image)
    splits = (EncodedSplit.of(model, own, processes) for model, own in zip(models, pairs, strict=True))
    if all(model.embeds for model in models):
        embeddings = [split.vectors() for split in splits]
        return partial(ranks_from_embeddings, embeddings, owners.to(embeddings[0][0].device), weights=weights)
    return partial(ranks_from_scores, [split.matrix(processes) for split in splits], owners, weights=weights)


def _loaded(run: str | Path | LoadedRun) -> LoadedRun:
    return run if isinstance(run, LoadedRun) else load_run(run)


def _check_same_data(first_run: LoadedRun, first: EncodedPairs, run: LoadedRun, pairs: EncodedPairs) -> None:
    """Runs may see the images at different sizes, but they must be asked the same questions in the same order."""
    if (
        first.data.image_names != pairs.data.image_names
        or first.data.captions != pairs.data.captions
        or not np.array_equal(first.caption_image, pairs.caption_image)
    ):
        raise ConfigError(
            f"run: expected runs of the same data, got {_described(first)} in {first_run.folder} "
            f"and {_described(pairs)} in {run.folder}"
        )


def _described(pairs: EncodedPairs) -> str:
    return f"{pairs.data.name} ({len(pairs.data.images):,} images, {len(pairs.data.captions):,} captions)"


def _noted(path: Path) -> dict[str, Any]:
    """What ``metrics.json`` holds so far."""
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"run: {path} is not valid JSON ({error}); delete it and evaluate again") from error
    if not isinstance(known, dict):
        raise ConfigError(
            f"run: expected results by split in {path}, got a {type(known).__name__}; delete it and evaluate again"
        )
    return known
