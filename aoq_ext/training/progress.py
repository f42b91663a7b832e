"""What a person sees while a model trains: a bar on a terminal, elsewhere a line every minute; a line every epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from aoq_ext.report.words import duration

QUIET_SECONDS = 60.0  # without a terminal, a line comes no sooner after the one before


class TrainingProgress:
    """Use as a context manager around the loop."""

    def __init__(self, label: str, epochs: int, steps: int, done: int = 0, console: Console | None = None) -> None:
        """steps: of the whole run; done: those taken before this process started"""
        self.console = console or Console()
        self.epochs = epochs
        self._steps, self._first, self._done = steps, done, done
        self._began = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(label, total=steps, completed=done, status="")

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, loss: float | None = None, rate: float | None = None) -> None:
        """One step done; ``loss`` per pair and ``rate`` in pairs a second, when they were just measured."""
        self._done += 1
        status = None if loss is None or rate is None else f"loss {loss:.3f}, {rate:,.0f} pairs/s"
        if self._bar is not None:
            if status is not None:
                self._bar.update(self._task, status=status)
            self._bar.advance(self._task)
        elif status is not None and time.monotonic() - self._last_line >= QUIET_SECONDS:
            seconds = (time.monotonic() - self._began) / (self._done - self._first) * (self._steps - self._done)
            self._print(f"step {self._done:,}/{self._steps:,}  {status}, {timedelta(seconds=round(seconds))} left")

    def mining(self) -> None:
        """The training set is being mined."""
        if self._bar is not None:
            self._bar.update(self._task, status="mining offline negatives")

    def mined(self, epoch: int, seconds: float) -> None:
        """It was, with weights that had seen ``epoch`` epochs."""
        weights = f"the weights of epoch {epoch}" if epoch else "the weights of the start"
        self._print(f"mined with {weights} in {seconds:.1f} s")

    def epoch(self, record: dict[str, Any], best: bool) -> None:
        """One epoch done; ``record`` as in `history`."""
        line = f"epoch {record['epoch']:>3}/{self.epochs}  loss {record['loss']:8.3f}"
        if "validation" in record:
            metrics = record["validation"]
            line += f"  rsum {metrics['rsum']:6.1f}  i2t R@1 {metrics['i2t_r1']:5.1f}  t2i R@1 {metrics['t2i_r1']:5.1f}"
        line += f"  {record['seconds']:5.1f} s"
        if record["online"] == "all":
            line += "  (warm-up)"
        self._print(line + ("  best" if best else ""))

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        self.console.print(line, highlight=False, soft_wrap=True)


class WholeProgress:
    """How long all the steps of an experiment will still take, by the rate of those so far."""

    def __init__(self, work: Mapping[str, float], seconds: Mapping[str, float], console: Console) -> None:
        """
        Args:
            work: of every step in the order they are done, in a unit that takes about as long in all of them.
            seconds: what each has taken so far, in earlier processes too; the caller keeps it up to date.
        """
        self._work, self._seconds, self._console = dict(work), seconds, console
        self._last_line = time.monotonic()
        self._bar: Progress | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """A bar on a terminal, which another of the same console may join; else a line a minute."""
        if not self._console.is_terminal:
            yield
            return
        columns = TextColumn("all steps"), BarColumn(), TaskProgressColumn(), TextColumn("{task.description}")
        with Progress(*columns, console=self._console, transient=True) as self._bar:
            self._bar.add_task("", total=sum(self._work.values()))
            yield
        self._bar = None

    def left(self, step: str, done: float) -> float | None:
        """Seconds, when so much of the work of ``step`` is done, and all before it; None before anything is known."""
        finished = self._finished(step, done)
        timed = [name for name, work in finished.items() if work > 0 and name in self._seconds]
        if not timed:
            return None
        rate = sum(self._seconds[name] for name in timed) / sum(finished[name] for name in timed)
        return rate * (sum(self._work.values()) - sum(finished.values()))

    def update(self, step: str, done: float) -> None:
        left = self.left(step, done)
        text = "" if left is None else f"about {duration(left)} left"
        completed = sum(self._finished(step, done).values())
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=completed, description=text)
        elif text and time.monotonic() - self._last_line >= QUIET_SECONDS:
            self._last_line = time.monotonic()
            share = completed / sum(self._work.values())
            self._console.print(f"all steps: {share:.0%} done, {text}", highlight=False)

    def _finished(self, step: str, done: float) -> dict[str, float]:
        names = list(self._work)
        return {name: self._work[name] for name in names[: names.index(step)]} | {step: done}
