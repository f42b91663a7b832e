"""The whole method on the bundled data: train, mine, train again with and without the negatives, and report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aoq_ext._files import expanded, write_json
from aoq_ext.data import ImageTextData, load_icons
from aoq_ext.report.run import ReportData, write_report
from aoq_ext.report.run.collect import SPLIT_TITLES, collect
from aoq_ext.report.run.words import overall, rsum_difference
from aoq_ext.report.words import duration, signed
from aoq_ext.training import DataConfig, LossConfig, OfflineConfig, OfflineLists, TrainConfig
from aoq_ext.training.config import check
from aoq_ext.training.cost import PAIRS_ENCODED, pairs_encoded
from aoq_ext.training.pairs import load_split
from aoq_ext.training.progress import WholeProgress
from aoq_ext.training.recipe import STEPS, Evaluation, Recipe, run_rounds

_IMAGES = 24_000  # of the training set: what two cores learn in minutes
_SAMPLE = 128


def run_demo(output_dir: Path, *, seed: int = 0, quick: bool = False, console: Console | None = None) -> Path:
    """Run every step that is not done yet, write the report, and return its path.

    A demo that was interrupted goes on where it stopped when it is started again with the same folder.

    Args:
        output_dir: receives round1/, negatives/, round2/, control/ and report.html.
        quick: a small part of the data and two epochs, to see that everything works; its figures mean nothing.
    """
    console = console or Console()
    folder = expanded(Path(output_dir)).resolve()
    recipe = demo_recipe(folder, seed, quick)
    check(recipe.first)
    clock = StepClock(folder / "seconds.json")
    images = len(load_split(recipe.first.data, recipe.first.data.train_split))
    whole = WholeProgress(work_of(recipe, images), clock.seconds, console)

    def on_step(steps: int) -> None:
        if steps % recipe.first.log_every == 0 and clock.step is not None:
            clock.note()
            whole.update(clock.step, pairs_encoded(recipe.runs[clock.step], images, steps))

    @contextmanager
    def measure(step: str) -> Iterator[None]:
        # Mining has a bar of its own, on another console.
        with clock.measure(step), nullcontext() if step == "mining" else whole.shown():
            whole.update(step, 0)
            yield

    run_rounds(recipe, console=console, on_step=on_step, measure=measure)
    console.rule(f"[bold]evaluation[/bold]: every model on {', '.join(SPLIT_TITLES)}", align="left")
    with clock.measure("evaluation", afresh=True):
        lists = OfflineLists.load(recipe.lists)
        runs = {step: Path(config.run) for step, config in recipe.runs.items()}
        data = collect(runs, lists, tuple(SPLIT_TITLES), clock.seconds)
    report = write_report(replace(data, seconds=dict(clock.seconds)), folder / "report.html")
    _summarise(data, report, sum(clock.seconds.values()), console)
    return report


def demo_recipe(folder: Path, seed: int, quick: bool) -> Recipe:
    """Round 1 from random weights; round 2 and its control from round 1's, at the same cost."""
    (epochs, warmup), further, sizes = ((12, 8), 2, _whole()) if not quick else ((2, 1), 2, _quick())
    first = replace(sizes, run=str(folder / "round1"), seed=seed, epochs=epochs, warmup_epochs=warmup)
    control = replace(
        first,
        run=str(folder / "control"),
        init=first.run,
        epochs=PAIRS_ENCODED["adaptive_quintuplet"] * further,
        warmup_epochs=0,
        optimizer=replace(first.optimizer, lr=first.optimizer.lr / 4),  # at the full rate the hardest collapse again
    )
    second = replace(
        control,
        run=str(folder / "round2"),
        epochs=further,
        loss=LossConfig(objective="adaptive_quintuplet", detach_weight=True),
        offline=OfflineConfig(lists=str(folder / "negatives"), top_texts=60, top_images=30),
    )
    return Recipe(folder, first, second, tuple(map(Evaluation, SPLIT_TITLES)), control)


def _whole() -> TrainConfig:
    sizes = TrainConfig(data=DataConfig(args={"images": _IMAGES}))
    return replace(sizes, optimizer=replace(sizes.optimizer, lr=2e-3))


def _quick() -> TrainConfig:
    return TrainConfig(data=DataConfig(loader="aoq_ext.demo.load_sample"), batch_size=32, log_every=2)


def work_of(recipe: Recipe, images: int) -> dict[str, float]:
    """Of every step, in pairs encoded while training.

    Mining and evaluation, without gradients, are taken for an epoch of each model they use: they are a small part.
    """
    work: dict[str, float] = {}
    for step, config in recipe.runs.items():
        work[step] = pairs_encoded(config, images)
        if step == "round 1":
            work["mining"] = images
    return work | {"evaluation": images * len(recipe.runs)}


def load_sample(split: str, root: str | Path | None = None) -> ImageTextData:
    """A small part of a split of the bundled data."""
    data = load_icons(split, root, images=_SAMPLE)
    return data.subset(range(_SAMPLE), name=f"{data.name}, {_SAMPLE} images of it")


class StepClock:
    """How long each step took, kept in a file so that a resumed demo still reports all of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        known = json.loads(path.read_text()) if path.is_file() else {}
        self.seconds: dict[str, float] = {step: known[step] for step in STEPS if step in known}
        self._running: tuple[str, float] | None = None  # the step, and the time at which it would have begun in one go

    @property
    def step(self) -> str | None:
        """The one that is running."""
        return self._running[0] if self._running is not None else None

    @contextmanager
    def measure(self, step: str, *, afresh: bool = False) -> Iterator[None]:
        """Add the time of the block to what earlier attempts took, or let it count alone."""
        self._running = step, time.perf_counter() - (0.0 if afresh else self.seconds.get(step, 0.0))
        try:
            yield
        finally:
            self.note()
            self._running = None

    def note(self) -> None:
        """Keep the time so far, of work that may be killed half-way."""
        if self._running is not None:
            step, began = self._running
            self.seconds[step] = time.perf_counter() - began
            write_json(self._path, self.seconds)


def _summarise(data: ReportData, report: Path, seconds: float, console: Console) -> None:
    title = f"rsum (of 600): the six recalls added up; difference: round 2 − {data.baseline}"
    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column("evaluated on", overflow="fold")
    for heading in (*data.runs, "difference", "95 % interval"):
        table.add_column(heading, justify="right")
    for split in data.splits:
        low, high = split.intervals["rsum"]
        table.add_row(
            f"{split.title} ({split.name})",
            *(f"{split.metrics[run]['rsum']:.1f}" for run in data.runs),
            signed(rsum_difference(split)),
            f"{signed(low)} to {signed(high)}",
        )
    console.rule(f"[bold]done[/bold] in {duration(seconds)}", align="left")
    console.print(table)
    console.print(overall(data), highlight=False)
    console.print(f"Report: [link={report.as_uri()}]{escape(str(report))}[/link]", soft_wrap=True, highlight=False)
