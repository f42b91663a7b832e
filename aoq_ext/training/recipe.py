"""A paper's whole experiment, one step after the other: round 1, mining, round 2, its control, and the evaluation.

Everything is in the files that the steps leave behind, so a recipe that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aoq_ext._files import expanded, write_json
from aoq_ext._scalars import check_list
from aoq_ext.data.precomputed import splits_in
from aoq_ext.lists.manifest import Manifest
from aoq_ext.mining.progress import MiningDisplay
from aoq_ext.report.words import listed
from aoq_ext.training.config import ConfigError, TrainConfig, check, check_same_run, needs_offline, to_dict
from aoq_ext.training.cost import pairs_encoded
from aoq_ext.training.evaluation import evaluate_folds
from aoq_ext.training.history import History
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.mining import MiningOptions, drop_work, mine_into
from aoq_ext.training.offline import OfflineLists, fingerprint_data, fingerprint_weights
from aoq_ext.training.pairs import load_split
from aoq_ext.training.parse import load_config
from aoq_ext.training.run import RunFiles
from aoq_ext.training.trainer import train

STEPS = ("round 1", "mining", "round 2", "control", "evaluation")
_ENDINGS = {"round 1": "-round1.yaml", "round 2": "-aoq.yaml", "control": "-control.yaml"}
_OWN_FLAGS = {"run": "--out", "offline.lists": "--out", "data.root": "--root"}
_COLUMNS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")

Results = dict[str, dict[str, dict[str, Any]]]  # of `evaluate_folds`, by round and evaluation


@dataclass(frozen=True)
class Evaluation:
    """A split, and in how many equal parts it is evaluated."""

    split: str
    folds: int = 1

    def __str__(self) -> str:
        return self.split if self.folds == 1 else f"{self.split}, {self.folds} folds"


def compared_with(runs: Iterable[str]) -> str:
    """The run that round 2 is compared with, of these."""
    return "control" if "control" in runs else "round 1"


@dataclass(frozen=True)
class Recipe:
    """Two rounds and what they are judged by."""

    folder: Path  # receives round1/, negatives/, round2/, control/ and metrics.json
    first: TrainConfig
    second: TrainConfig
    evaluations: tuple[Evaluation, ...]
    control: TrainConfig | None = None  # begins as round 2 does, and goes on as round 1 did

    @property
    def runs(self) -> dict[str, TrainConfig]:
        """By step."""
        runs = {"round 1": self.first, "round 2": self.second}
        return runs if self.control is None else runs | {"control": self.control}

    @property
    def baseline(self) -> str:
        """The run that round 2 is compared with."""
        return compared_with(self.runs)

    @property
    def lists(self) -> Path:
        return self.folder / "negatives"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"


def read_recipe(
    prefix: str | Path,
    out: str | Path | None = None,
    root: str | Path | None = None,
    overrides: Mapping[str, str] | None = None,
    evaluations: Sequence[Evaluation] = (),
) -> Recipe:
    """The recipe in ``PREFIX-round1.yaml``, ``PREFIX-aoq.yaml`` and, where there is one, ``PREFIX-control.yaml``;
    ConfigError for what cannot work.

    An ``init`` that names round 1's ``run`` in these files means the round 1 of the recipe, wherever its folder is.

    Args:
        out: its folder; by default runs/DATASET-MODEL, after the last two parts of ``prefix``.
        root: the folder with the data, in place of that in the files.
        overrides: entries of all runs by dotted name.
        evaluations: by default test, or, where the data set has testall, that in five folds and whole.
    """
    check_list("evaluations", evaluations, "evaluations")
    prefix, out = expanded(Path(prefix)), expanded(out)
    given: dict[str, Any] = dict(overrides or {})
    for name, flag in _OWN_FLAGS.items():
        if name in given:
            raise ConfigError(f"{name}: expected by {flag}, got --set")
    folder = Path(out) if out is not None else Path("runs") / f"{prefix.absolute().parent.name}-{prefix.name}"
    if root is not None:
        given["data.root"] = str(root)
    files = {step: prefix.with_name(prefix.name + ending) for step, ending in _ENDINGS.items()}
    runs = {step: load_config(file, **given) for step, file in files.items() if step != "control" or file.is_file()}
    recipe = _placed(folder, runs, evaluations)
    for step, config in recipe.runs.items():
        try:
            check(config)
        except ConfigError as error:
            raise ConfigError(f"{step}: {error}") from error
    _check_roles(recipe)
    return recipe


def _placed(folder: Path, runs: dict[str, TrainConfig], evaluations: Sequence[Evaluation]) -> Recipe:
    """The runs of the files, with everything in the recipe's folder."""
    first, second, control = runs["round 1"], runs["round 2"], runs.get("control")
    first_place = first.run
    for step, config in runs.items():
        config.run = str(folder / step.replace(" ", ""))
        if config.init is not None and Path(config.init) == Path(first_place):
            config.init = first.run
    recipe = Recipe(folder, first, second, tuple(evaluations) or _default_evaluations(first), control)
    second.offline.lists = str(recipe.lists)
    return recipe


def _check_roles(recipe: Recipe) -> None:
    first, second, control = recipe.first, recipe.second, recipe.control
    if first.loss.objective != "online_triplet":
        raise ConfigError(f"round 1: loss.objective: expected online_triplet, got {first.loss.objective}")
    if not needs_offline(second):
        raise ConfigError(
            f"round 2: loss.objective: expected one with offline negatives in epochs after warmup_epochs, "
            f"got {second.loss.objective} with {second.warmup_epochs} of {second.epochs} epochs of warming up"
        )
    if first.init == first.run:
        raise ConfigError(f"round 1: init: expected another run or null, got round 1 itself, {first.init}")
    if control is not None and control.loss.objective != "online_triplet":
        raise ConfigError(f"control: loss.objective: expected online_triplet, got {control.loss.objective}")
    if control is not None and control.init != second.init:
        raise ConfigError(f"control: init: expected that of round 2, {second.init}, got {control.init}")


def _default_evaluations(config: TrainConfig) -> tuple[Evaluation, ...]:
    """The 1K and 5K figures of COCO are of the same images."""
    if config.data.root is not None and "testall" in splits_in(config.data.root):
        return Evaluation("testall", 5), Evaluation("testall")
    return (Evaluation("test"),)


def run_recipe(
    recipe: Recipe,
    *,
    device: str | None = None,
    console: Console | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Results:
    """Do every step that is not done yet, and print a table; returns the results by round and evaluation.

    Args:
        device: where mining and evaluation run; by default where training does.
        on_step: called after each training step with the number of steps taken so far in that round.

    ConfigError when the folder holds anything of another recipe, or a split is missing, before any work.
    """
    console = console or Console()
    device = run_rounds(recipe, device=device, console=console, on_step=on_step)
    results = _evaluate(recipe, device, console)
    _summarise(recipe, results, console)
    return results


def run_rounds(
    recipe: Recipe,
    *,
    console: Console,
    device: str | None = None,
    on_step: Callable[[int], None] | None = None,
    measure: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> str:
    """`run_recipe` without the evaluation; returns the device.

    Args:
        measure: entered with a step's name around whatever of it is not done yet.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "expected one process for a recipe, got several; train its rounds by `torchrun ... -m -- aoq_ext train`, "
            "and the recipe skips them (docs/training.md)"
        )
    _refuse_other_settings(recipe)
    for split in {each.split for each in recipe.evaluations}:
        load_split(recipe.first.data, split)
    device = device or str(Fabric(accelerator=recipe.first.accelerator, devices=1).device)
    for step, config in recipe.runs.items():
        _train(config, step, console, on_step, measure)
        if step == "round 1":
            with nullcontext() if _is_mined(recipe) else measure("mining"):
                _mine(recipe, device, console)
    return device


def _refuse_other_settings(recipe: Recipe) -> None:
    """Of any run, before work is put into the first."""
    for step, config in recipe.runs.items():
        files = RunFiles(config.run)
        if not files.config.is_file():
            continue
        try:
            check_same_run(to_dict(config), to_dict(load_config(files.config)))
        except ConfigError as error:
            setting = str(error).partition("; ")[0]  # the advice there is for `aoq train`
            raise ConfigError(
                f"{recipe.folder} holds a {step} with other settings; choose another --out, or delete {files.folder} "
                f"({setting})"
            ) from error


def _train(
    config: TrainConfig,
    step: str,
    console: Console,
    on_step: Callable[[int], None] | None,
    measure: Callable[[str], AbstractContextManager[object]],
) -> None:
    start = "random weights" if config.init is None else f"the weights of {Path(config.init).name}"
    _announce(console, step, f"{config.loss.objective.replace('_', ' ')}s, {config.epochs} epochs from {start}")
    history = RunFiles(config.run).history
    done = history.is_file() and len(History.load(history).epochs) == config.epochs
    # A finished run is only checked to be this configuration's, on this data and these lists.
    with nullcontext() if done else measure(step):
        train(config, resume=True, console=console, on_step=on_step)
    if done:
        console.print(f"done before: {config.run}", highlight=False, soft_wrap=True)


def _mine(recipe: Recipe, device: str, console: Console) -> None:
    offline = recipe.second.offline
    _announce(console, "mining", f"{offline.top_texts} texts per image, {offline.top_images} images per text")
    loaded = load_run(recipe.first.run, device=device)
    if _is_mined(recipe):
        _check_lists(recipe, loaded)
        drop_work(recipe.lists)  # of a process that was killed after it had written the lists
        console.print(f"done before: {recipe.lists}", highlight=False, soft_wrap=True)
        return
    with MiningDisplay() as display:
        lengths = offline.top_texts, offline.top_images
        options = MiningOptions(*lengths, rerank=offline.rerank, on_progress=display.update)
        lists = mine_into(recipe.lists, loaded, options)
    console.print(f"{len(lists.texts):,} images × {len(lists.images):,} texts: {recipe.lists}", highlight=False)


def _is_mined(recipe: Recipe) -> bool:
    manifest = Manifest.load(recipe.lists, "offline.lists")
    return manifest is not None and manifest.complete


def _check_lists(recipe: Recipe, loaded: LoadedRun) -> None:
    """Refuse lists of other weights, data or rules, or shorter ones than round 2 draws from."""
    lists, offline = OfflineLists.load(recipe.lists), recipe.second.offline
    data = load_split(recipe.first.data, recipe.first.data.train_split)
    rerank = lists.problem.get("rerank")  # None: not by scores, or of a version that did not say
    for what, expected, got in (
        ("of the weights of round 1", fingerprint_weights(loaded.model.state_dict()), lists.weights_fingerprint),
        ("of the training set", fingerprint_data(data), lists.data_fingerprint),
        ("texts per image", min(offline.top_texts, len(data.captions)), lists.texts.shape[1]),
        ("images per text", min(offline.top_images, len(data.images)), lists.images.shape[1]),
        ("as offline.rerank", offline.rerank, offline.rerank if rerank is None else rerank),
    ):
        if expected != got:
            raise ConfigError(
                f"offline.lists: expected negatives {what if isinstance(expected, str) else f'with {expected} {what}'} "
                f"in {recipe.lists}, got {'those of another' if isinstance(expected, str) else got}; delete the folder "
                f"to mine again"
            )


def _evaluate(recipe: Recipe, device: str, console: Console) -> Results:
    """Every run on every split; what was measured of the same weights and data is taken from metrics.json.

    A run's own metrics.json, which `evaluate_folds` writes, has one result a split and cannot hold both of testall.
    """
    _announce(console, "evaluation", "; ".join(map(str, recipe.evaluations)))
    known, results = _noted(recipe.metrics), Results()
    for step, config in recipe.runs.items():
        loaded = load_run(config.run, device=device)
        found = known.setdefault(step, {})
        for split in dict.fromkeys(each.split for each in recipe.evaluations):
            of = {
                "weights_fingerprint": fingerprint_weights(loaded.model.state_dict()),
                "data_fingerprint": fingerprint_data(load_split(loaded.config.data, split)),
            }
            missing = []
            for evaluation in (each for each in recipe.evaluations if each.split == split):
                if of.items() <= found.get(str(evaluation), {}).items():
                    console.print(f"done before: {step} on {evaluation}", highlight=False)
                else:
                    missing.append(evaluation)
            if missing:
                measured = evaluate_folds(loaded, split, [each.folds for each in missing])
                found |= {str(each): result | of for each, result in zip(missing, measured, strict=True)}
                write_json(recipe.metrics, known)
        results[step] = {str(evaluation): found[str(evaluation)] for evaluation in recipe.evaluations}
    return results


def _noted(path: Path) -> Results:
    try:
        known: Results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{path}: expected valid JSON, got {error}; delete it to evaluate again") from error
    return known


def _announce(console: Console, step: str, what: str) -> None:
    console.rule(f"[bold]{step}[/bold]: {escape(what)}", align="left")


def _summarise(recipe: Recipe, results: Results, console: Console) -> None:
    console.rule("[bold]done[/bold]", align="left")
    for name in map(str, recipe.evaluations):
        console.print(_table(name, {step: results[step][name] for step in recipe.runs}, recipe.baseline))
    if recipe.control is not None:
        images = len(load_split(recipe.first.data, recipe.first.data.train_split))
        ours, theirs = (pairs_encoded(config, images) for config in (recipe.second, recipe.control))
        console.print(f"round 2 encoded {ours:,} pairs in training, its control {theirs:,}", highlight=False)
    console.print(f"everything is in {recipe.folder}", highlight=False, soft_wrap=True)


def _table(name: str, results: dict[str, dict[str, Any]], baseline: str) -> Table:
    """No wider than 80 columns."""
    before, after = results[baseline], results["round 2"]
    epochs = listed([str(result["epoch"]) for result in results.values()])
    title = f"{name}: {after['images']:,} images, weights of epochs {epochs}"
    table = Table(title=escape(title), title_justify="left", show_edge=False)
    table.add_column("")
    for heading in ("to text\nR@1", "\nR@5", "\nR@10", "to image\nR@1", "\nR@5", "\nR@10", "\nrsum"):
        table.add_column(heading, justify="right")
    for step, result in results.items():
        table.add_row(step, *(f"{result[column]:.1f}" for column in _COLUMNS))
    table.add_row(
        f"round 2 − {baseline}", *(f"{after[column] - before[column]:+.1f}" for column in _COLUMNS), style="dim"
    )
    return table
