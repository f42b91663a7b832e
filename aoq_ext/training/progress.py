"""What a person sees while a model trains: a bar on a terminal, one line per epoch anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """Use as a context manager around the loop."""

    def __init__(self, label: str, epochs: int, steps: int, done: int = 0, console: Console | None = None) -> None:
        """steps: of the whole run; done: those taken before this process started"""
        self.console = console or Console()
        self.epochs = epochs
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
        if self._bar is None:
            return
        if loss is not None and rate is not None:
            self._bar.update(self._task, status=f"loss {loss:.3f}, {rate:,.0f} pairs/s")
        self._bar.advance(self._task)

    def mining(self) -> None:
        """The training set is being mined."""
        if self._bar is not None:
            self._bar.update(self._task, status="mining offline negatives")

    def mined(self, epoch: int, seconds: float) -> None:
        """It was, with weights that had seen ``epoch`` epochs."""
        weights = f"the weights of epoch {epoch}" if epoch else "random weights"
        self.console.print(f"mined with {weights} in {seconds:.1f} s", highlight=False, soft_wrap=True)

    def epoch(self, record: dict[str, Any], best: bool) -> None:
        """One epoch done; ``record`` as in `history`."""
        line = f"epoch {record['epoch']:>3}/{self.epochs}  loss {record['loss']:8.3f}"
        if "validation" in record:
            metrics = record["validation"]
            line += f"  rsum {metrics['rsum']:6.1f}  i2t R@1 {metrics['i2t_r1']:5.1f}  t2i R@1 {metrics['t2i_r1']:5.1f}"
        line += f"  {record['seconds']:5.1f} s"
        if record["online"] == "all":
            line += "  (warm-up)"
        self.console.print(line + ("  best" if best else ""), highlight=False, soft_wrap=True)
