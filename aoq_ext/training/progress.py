"""What a person sees while a model trains: a bar on a terminal, elsewhere a line every minute; a line every epoch."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
