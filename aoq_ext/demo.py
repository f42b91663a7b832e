"""The whole method on the bundled data: train, mine, train again, evaluate both, and report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aoq_ext._files import expanded, write_json
from aoq_ext.data import ImageTextData, load_emoji
from aoq_ext.report import ReportData, write_report
from aoq_ext.report.collect import SPLIT_TITLES, collect
from aoq_ext.report.words import duration, overall, rsum_difference, signed
from aoq_ext.training import (
    ConfigError,
    DataConfig,
    History,
    LossConfig,
    OfflineConfig,
    OfflineLists,
    TrainConfig,
    load_config,
    load_run,
    mine_run,
    train,
)
from aoq_ext.training.config import check, check_same_run, to_dict
from aoq_ext.training.offline import fingerprint_weights
from aoq_ext.training.run import RunFiles

STEPS = ("round 1", "mining", "round 2", "evaluation")
_SAMPLE = 128


def run_demo(output_dir: Path, *, seed: int = 0, quick: bool = False, console: Console | None = None) -> Path:
    """Run every step that is not done yet, write the report, and return its path.

    A demo that was interrupted goes on where it stopped when it is started again with the same folder.

    Args:
        output_dir: receives round1/, negatives/, round2/ and report.html.
        quick: a small part of the data and two epochs, to see that everything works; its figures mean nothing.
    """
    console = console or Console()
    folder = expanded(Path(output_dir)).resolve()
    first, second = configurations(folder, seed, quick)
    check(first)
    _refuse_other_settings(first, folder)
    clock = StepClock(folder / "seconds.json")

    _train(first, STEPS[0], "online triplets", clock, console)
    lists = _mine(first, second, clock, console)
    _train(second, STEPS[2], "adaptive offline quintuplets, from random weights", clock, console)

    _announce(console, STEPS[3], f"both models on {', '.join(SPLIT_TITLES)}")
    with clock.measure(STEPS[3], afresh=True):
        data = collect(Path(first.run), Path(second.run), lists, tuple(SPLIT_TITLES), clock.seconds)
    report = write_report(replace(data, seconds=dict(clock.seconds)), folder / "report.html")
    _summarise(data, report, sum(clock.seconds.values()), console)
    return report


def configurations(folder: Path, seed: int, quick: bool) -> tuple[TrainConfig, TrainConfig]:
    """Both rounds: the same in everything but the loss and the offline negatives it needs."""
    first = TrainConfig(run=str(folder / "round1"), seed=seed)
    if quick:
        data = DataConfig(loader="aoq_ext.demo.load_sample")
        first = replace(first, data=data, epochs=2, warmup_epochs=1, batch_size=32, log_every=2)
    second = replace(
        first,
        run=str(folder / "round2"),
        loss=LossConfig(objective="adaptive_quintuplet"),
        offline=OfflineConfig(lists=str(folder / "negatives")),
    )
    return first, second


def load_sample(split: str, root: str | Path | None = None) -> ImageTextData:
    """The first pictures of a split of the bundled data."""
    data = load_emoji(split, root)
    return data.subset(range(min(len(data), _SAMPLE)), name=f"{data.name}, the first {_SAMPLE} images")


def _refuse_other_settings(first: TrainConfig, folder: Path) -> None:
    files = RunFiles(first.run)
    if not files.config.is_file():
        return
    try:
        check_same_run(to_dict(first), to_dict(load_config(files.config)))
    except ConfigError as error:
        raise ConfigError(f"{folder} holds a demo with other settings; choose another --out or delete it") from error


class StepClock:
    """How long each step took, kept in a file so that a resumed demo still reports all of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        known = json.loads(path.read_text()) if path.is_file() else {}
        self.seconds: dict[str, float] = {step: known[step] for step in STEPS if step in known}

    @contextmanager
    def measure(self, step: str, *, afresh: bool = False) -> Iterator[Callable[[], None]]:
        """Add the time of the block to what earlier attempts took, or let it count alone.

        The block gets a function that notes the time so far, for work that may be killed half-way.
        """
        earlier = 0.0 if afresh else self.seconds.get(step, 0.0)
        started = time.perf_counter()

        def note() -> None:
            self.seconds[step] = earlier + time.perf_counter() - started
            write_json(self._path, self.seconds)

        try:
            yield note
        finally:
            note()


def _train(config: TrainConfig, step: str, what: str, clock: StepClock, console: Console) -> None:
    _announce(console, step, f"{what}, {config.epochs} epochs")
    history = RunFiles(config.run).history
    finished = history.is_file() and len(History.load(history).epochs) == config.epochs
    if finished:
        train(config, resume=True, console=console)  # does nothing but check that it is this configuration's run
        console.print(f"done before, in {duration(clock.seconds.get(step, 0.0))}")
        return
    with clock.measure(step) as note:

        def on_step(steps: int) -> None:
            if steps % config.log_every == 0:
                note()

        train(config, resume=True, console=console, on_step=on_step)


def _mine(first: TrainConfig, second: TrainConfig, clock: StepClock, console: Console) -> OfflineLists:
    """The lists of the first run's best weights, from the disk where they are already there."""
    offline = second.offline
    _announce(console, STEPS[1], f"{offline.top_texts} captions per image, {offline.top_images} images per caption")
    run = load_run(first.run)
    folder = Path(str(offline.lists))
    try:
        lists = OfflineLists.load(folder)
    except ConfigError:
        lists = None
    if lists is not None and lists.weights_fingerprint == fingerprint_weights(run.model.state_dict()):
        console.print(f"done before, in {duration(clock.seconds.get(STEPS[1], 0.0))}")
        return lists
    with clock.measure(STEPS[1], afresh=True):
        lists = mine_run(run, offline.top_texts, offline.top_images)
        lists.save(folder)
    size = f"{len(lists.texts):,} images × {len(lists.images):,} captions"
    console.print(f"{size} in {duration(clock.seconds[STEPS[1]])}", highlight=False)
    return lists


def _announce(console: Console, step: str, what: str) -> None:
    console.rule(f"[bold]{step}[/bold]: {escape(what)}", align="left")


def _summarise(data: ReportData, report: Path, seconds: float, console: Console) -> None:
    table = Table(title="rsum (of 600): the six recalls added up", title_justify="left", show_edge=False)
    table.add_column("evaluated on")
    for heading in ("round 1", "round 2", "difference", "95 % interval"):
        table.add_column(heading, justify="right")
    for split in data.splits:
        low, high = split.rsum_interval
        table.add_row(
            f"{split.title} ({split.name})",
            f"{split.before['rsum']:.1f}",
            f"{split.after['rsum']:.1f}",
            signed(rsum_difference(split)),
            f"{signed(low)} to {signed(high)}",
        )
    console.rule(f"[bold]done[/bold] in {duration(seconds)}", align="left")
    console.print(table)
    console.print(overall(data), highlight=False)
    console.print(f"Report: [link={report.as_uri()}]{escape(str(report))}[/link]", soft_wrap=True, highlight=False)
