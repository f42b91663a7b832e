"""``aoq eval``"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aoq_ext._files import write_json
from aoq_ext.commands.parsing import UsageError, check_writable, device, folder, make_parser, naming_options, positive

if TYPE_CHECKING:
    from torch import Tensor

    from aoq_ext.metrics import RetrievalRanks, Rows

_LEVEL = 0.95
_CAPTIONS_PER_IMAGE = 5  # of Flickr30K and MS-COCO
_WIDEST = 1000  # characters of a table
_SCORES = "(N, T) with T ≥ 1"
_RUN_OPTIONS = ("split", "which", "device", "root")


def run(argv: Sequence[str]) -> int:
    parser = make_parser(
        "eval",
        "Retrieval metrics of trained models, of embeddings or of scores. A run's are noted in its metrics.json.",
    )
    _add_arguments(parser)
    parsed = parser.parse_args(argv)
    sources = [name for name in ("run", "images", "scores") if getattr(parsed, name)]
    if len(sources) != 1 or bool(parsed.images) != bool(parsed.texts):
        parser.error("expected --run, or --images with --texts, or --scores: one of the three")
    models = len(getattr(parsed, sources[0]))
    if parsed.weight and (models == 1 or len(parsed.weight) != models):
        parser.error(f"--weight: expected one for each of several models, got {len(parsed.weight)} for {models}")
    if parsed.root and len(parsed.root) not in (1, models):
        parser.error(f"--root: expected one for all runs or one for each, got {len(parsed.root)} for {models}")
    for name in ("level", "seed"):
        if getattr(parsed, name) is not None and not parsed.bootstrap:
            parser.error(f"--{name} goes with --bootstrap")
    parsed.level, parsed.seed = _LEVEL if parsed.level is None else parsed.level, parsed.seed or 0
    if parsed.run and parsed.text_image_index:
        parser.error("--text-image-index goes with files; a run's data set has its own")
    for name in () if parsed.run else _RUN_OPTIONS:
        if getattr(parsed, name) is not None:
            parser.error(f"--{name} goes with --run; files are measured as they are")
    check_writable(parser, "--json", parsed.json)
    with naming_options(parser, weights="--weight", resamples="--bootstrap"):
        return _evaluate(parsed)


def _evaluate(parsed: argparse.Namespace) -> int:
    if parsed.bootstrap:
        from aoq_ext.metrics.ranks import checked_bootstrap

        checked_bootstrap(parsed.bootstrap, parsed.level, parsed.seed)  # before the work
    unsaved: list[str] = []
    results = _evaluate_runs(parsed, unsaved) if parsed.run else {"files": _evaluate_files(parsed)}
    _print_results(results)
    for reason in unsaved:
        print(f"note: the result could not be saved with the run: {reason}", file=sys.stderr)
    if parsed.json:
        write_json(parsed.json, results)
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group(
        "what is measured", "Given more than once: several models, their scores averaged."
    )
    source.add_argument("--run", type=Path, action="append", help="the folder of a training run")
    source.add_argument("--images", type=Path, action="append", help="image embeddings (N, D): .npy, .safetensors")
    source.add_argument(
        "--texts", type=Path, action="append", help="text embeddings (T, D), one file for each --images"
    )
    source.add_argument("--scores", type=Path, action="append", help="scores (N, T) of all images with all texts")
    source.add_argument("--weight", type=float, action="append", help="a model's share of the score, in order (equal)")

    runs = parser.add_argument_group("with --run")
    runs.add_argument("--split", action="append", help="a split of the run's data set; may be given again (test)")
    runs.add_argument("--which", choices=("best", "last"), help="the weights (best)")
    runs.add_argument(
        "--root", type=folder, action="append", help="where its data is now; one for all runs, or one each (as trained)"
    )
    runs.add_argument("--device", type=device, help="where the model runs, cpu or cuda (cpu)")

    files = parser.add_argument_group("with files")
    files.add_argument(
        "--text-image-index",
        type=Path,
        help=f".npy (T,): the image that each text describes ({_CAPTIONS_PER_IMAGE} texts an image, in order)",
    )

    parser.add_argument("--folds", type=positive, default=1, help="evaluate in this many equal parts and average (1)")
    parser.add_argument(
        "--bootstrap", type=positive, default=0, metavar="N", help="intervals from N resamples of the images (none)"
    )
    parser.add_argument("--level", type=float, help=f"the level of the intervals ({_LEVEL})")
    parser.add_argument("--seed", type=int, help="of the resamples (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")


def _evaluate_runs(parsed: argparse.Namespace, unsaved: list[str]) -> dict[str, dict[str, Any]]:
    """Results by split; ``unsaved`` gets why one could not be noted with its run."""
    from aoq_ext.training.evaluation import evaluate_ensemble, evaluate_run, note_result
    from aoq_ext.training.load import load_run

    which: Literal["best", "last"] = parsed.which or "best"
    roots = parsed.root or [None]
    runs = [
        load_run(run, which, parsed.device or "cpu", root)
        for run, root in zip(parsed.run, roots * len(parsed.run), strict=False)
    ]
    options = {"resamples": parsed.bootstrap, "level": parsed.level, "seed": parsed.seed}
    results = {}
    for split in parsed.split or ["test"]:
        if len(runs) == 1:
            results[split] = evaluate_run(runs[0], split, parsed.folds, **options, note=False)
            try:
                note_result(runs[0].folder, split, results[split])
            except OSError as error:  # of an archive, say
                unsaved.append(str(error))
            results[split]["protocol"] = _protocol(results[split], f"weights of epoch {runs[0].epoch}")
        else:
            results[split] = evaluate_ensemble(runs, split, parsed.folds, parsed.weight, **options)
            epochs = ", ".join(str(run.epoch) for run in runs)
            note = f"{_averaged(len(runs), 'runs', parsed.weight)}, weights of epochs {epochs}"
            results[split]["protocol"] = _protocol(results[split], note)
    return results


def _evaluate_files(parsed: argparse.Namespace) -> dict[str, Any]:
    ranks, described = _rank_scores(parsed) if parsed.scores else _rank_embeddings(parsed)
    result = {
        "dataset": described,
        "images": len(ranks.i2t),
        "captions": len(ranks.t2i),
        "folds": ranks.folds,
        "files": {name: [str(path) for path in getattr(parsed, name) or []] for name in ("images", "texts", "scores")},
        "text_image_index": parsed.text_image_index and str(parsed.text_image_index),
        "score_weights": parsed.weight,
        **ranks.report(parsed.bootstrap, parsed.level, parsed.seed),
    }
    owners = (
        f"captions matched to images by {parsed.text_image_index.name}"
        if parsed.text_image_index
        else f"{_CAPTIONS_PER_IMAGE} captions an image, in order, as no --text-image-index was given"
    )
    models = len(parsed.scores or parsed.images)
    notes = [owners] if models == 1 else [owners, _averaged(models, "models", parsed.weight)]
    return {**result, "protocol": _protocol(result, *notes)}


def _rank_embeddings(parsed: argparse.Namespace) -> tuple[RetrievalRanks, str]:
    from aoq_ext.metrics import ranks_from_embeddings

    if len(parsed.images) != len(parsed.texts):
        raise UsageError(f"--texts: expected one file for each --images, {len(parsed.images)}, got {len(parsed.texts)}")
    images = [_open_rows("--images", path) for path in parsed.images]
    texts = [_open_rows("--texts", path) for path in parsed.texts]
    owners = _text_image_index(parsed.text_image_index, len(images[0]), len(texts[0]))
    ranks = ranks_from_embeddings(list(zip(images, texts, strict=True)), owners, parsed.folds, parsed.weight)
    return ranks, ", ".join(f"{a.name} with {b.name}" for a, b in zip(parsed.images, parsed.texts, strict=True))


def _rank_scores(parsed: argparse.Namespace) -> tuple[RetrievalRanks, str]:
    from aoq_ext.metrics import ranks_from_scores

    scores = [_open_rows("--scores", path, _SCORES) for path in parsed.scores]
    owners = _text_image_index(parsed.text_image_index, *scores[0].shape)
    return ranks_from_scores(scores, owners, parsed.folds, parsed.weight), ", ".join(p.name for p in parsed.scores)


def _open_rows(option: str, path: Path, form: str = "(rows, D) with D ≥ 1") -> Rows:
    """The matrix in a file, which is read a block at a time; errors call it by the option and the file."""
    from aoq_ext._sources import open_embeddings
    from aoq_ext.metrics.inputs import as_rows

    return as_rows(f"{option} {path}", open_embeddings(path, option, form))


def _text_image_index(path: Path | None, images: int, texts: int) -> Tensor:
    import torch

    from aoq_ext._sources import read_integers

    if path is not None:
        return read_integers(path, "--text-image-index")
    if texts != _CAPTIONS_PER_IMAGE * images:
        raise UsageError(
            f"--text-image-index: expected the image of each text, as {texts:,} texts are not "
            f"{_CAPTIONS_PER_IMAGE} for each of {images:,} images, got none"
        )
    return torch.arange(texts, device="cpu") // _CAPTIONS_PER_IMAGE


def _averaged(count: int, what: str, weights: Sequence[float] | None) -> str:
    by_weight = f" by weights {', '.join(f'{weight:g}' for weight in weights)}" if weights else ""
    return f"scores of {count} {what} averaged{by_weight}"


def _protocol(result: dict[str, Any], *notes: str) -> str:
    """One sentence saying what the numbers mean."""
    folds = "" if result["folds"] == 1 else f", in {result['folds']} folds, averaged"
    parts = [
        f"{result['dataset']}: {result['images']:,} images and all their {result['captions']:,} captions{folds}",
        "an image counts as found at its best-ranked own caption",
        "ties count against the query",
        *notes,
    ]
    if "bootstrap" in result:
        drawn = result["bootstrap"]
        parts.append(
            f"{100 * drawn['level']:g} % percentile intervals of {drawn['resamples']:,} resamples of the images, "
            f"each with its captions (seed {drawn['seed']})"
        )
    return "; ".join(parts)


def _print_results(results: dict[str, dict[str, Any]]) -> None:
    """A table with one row per split, the ends of its intervals under it, and the protocol of each."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    console = Console()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("\nsplit" if "files" not in results else "", no_wrap=True)
    for way in ("i2t", "t2i"):
        for column in ("R@1", "R@5", "R@10", "medr"):
            table.add_column(f"{way}\n{column}", justify="right", no_wrap=True)
    table.add_column("\nrsum", justify="right", no_wrap=True)
    shown = [f"{way}_{key}" for way in ("i2t", "t2i") for key in ("r1", "r5", "r10", "medr")] + ["rsum"]
    for name, result in results.items():
        table.add_row(name, *(f"{result[key]:.1f}" for key in shown))
        for end, label in enumerate(("from", "to") if "intervals" in result else ()):
            table.add_row(label, *(f"{result['intervals'][key][end]:.1f}" for key in shown), style="dim")
    whole = Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum
    console.width = max(console.width, whole)  # a name is worth a line that wraps
    console.print(table)
    for result in results.values():
        console.print(result["protocol"], highlight=False, soft_wrap=True)
