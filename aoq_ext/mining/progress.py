"""How far mining is, for a person: a bar on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

_LINE_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class MiningProgress:
    """What `mine_to_files` tells its ``on_progress``."""

    scores: int  # pairs scored, in earlier starts too
    total: int  # pairs there are
    shards: int  # restartable parts on the disk
    total_shards: int


class MiningDisplay:
    """Shows `MiningProgress`; use as a context manager around the work."""

    def __init__(self, stream: TextIO | None = None, every: float = _LINE_EVERY) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._every = every
        self._begin: tuple[float, int] | None = None  # when this process began, and what was done before
        self._total: int | None = None
        self._said = time.monotonic()
        self._bar = _bar(self._stream)
        self._task: Any = None

    def __enter__(self) -> MiningDisplay:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, now: MiningProgress) -> None:
        clock = time.monotonic()
        if self._begin is None or now.total != self._total:  # another total is another part of the work
            self._begin, self._total = (clock, now.scores), now.total
        seconds, done = clock - self._begin[0], now.scores - self._begin[1]
        rate = done / seconds if seconds > 0 and done > 0 else None
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task("mining", total=now.total, status="")
            pace = _pace(rate, now.total - now.scores)
            self._bar.update(self._task, total=now.total, completed=now.scores, status=pace)
        elif clock - self._said >= self._every:
            self._said = clock
            share = now.scores / now.total if now.total else 1.0
            print(
                f"{share:6.1%}  {count(now.scores)} of {count(now.total)} scores, "
                f"{now.shards} of {now.total_shards} parts on the disk, {_pace(rate, now.total - now.scores)}",
                file=self._stream,
                flush=True,
            )


def count(number: float) -> str:
    """A number of scores: 950, 12.3 thousand, 4.5 million, ..."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """A time: 12 s, 3 min 20 s, 5 h 12 min, ..."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(amount: float) -> str:
    """An amount of bytes: 812 B, 3.4 MB, ..."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if amount >= unit:
            return f"{amount / unit:.3g} {name}"
    return f"{amount:.0f} B"


def _pace(rate: float | None, left: int) -> str:
    return "" if rate is None else f"{count(rate)} scores/s, {duration(left / rate)} left"


def _bar(stream: TextIO) -> Any:
    """A bar of rich; None without a terminal, or without rich."""
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    except ModuleNotFoundError:
        return None
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[status]}")
    return Progress(*columns, console=Console(file=stream), transient=True)
