"""What a run says of itself where there is no terminal, as in the log of a batch job."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from aoq_ext.training import progress
from aoq_ext.training.progress import TrainingProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_a_minute_without_a_terminal(clock: list[float]) -> None:
    """A run of 400 steps that goes on at step 100, 6 seconds each, measured every fifth."""
    said = io.StringIO()
    with TrainingProgress("run", 4, 400, done=100, console=Console(file=said)) as shown:
        for step in range(101, 131):
            clock[0] += 6
            if step % 5 == 0:
                shown.advance(loss=0.25, rate=1234.5)
            else:
                shown.advance()
    assert said.getvalue().splitlines() == [
        "step 110/400  loss 0.250, 1,234 pairs/s, 0:29:00 left",
        "step 120/400  loss 0.250, 1,234 pairs/s, 0:28:00 left",
        "step 130/400  loss 0.250, 1,234 pairs/s, 0:27:00 left",
    ]


def test_an_epochs_line_counts_as_one(clock: list[float]) -> None:
    said = io.StringIO()
    shown = TrainingProgress("run", 4, 400, console=Console(file=said))
    clock[0] += 59
    shown.epoch({"epoch": 1, "loss": 2.0, "seconds": 59.0, "online": "hardest"}, best=True)
    clock[0] += 59
    shown.advance(0.25, 10.0)
    assert said.getvalue().splitlines() == ["epoch   1/4  loss    2.000   59.0 s  best"]
    clock[0] += 1
    shown.advance(0.25, 10.0)
    assert said.getvalue().splitlines()[1].startswith("step 2/400  loss 0.250")


def test_a_terminal_shows_the_bar_alone(clock: list[float]) -> None:
    said = io.StringIO()
    with TrainingProgress("run", 4, 400, console=Console(file=said, force_terminal=True, width=100)) as shown:
        clock[0] += 120
        shown.advance(0.25, 10.0)
    assert "loss 0.250, 10 pairs/s" in said.getvalue() and "left" not in said.getvalue()
