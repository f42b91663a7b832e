"""What a run says of itself where there is no terminal, as in the log of a batch job."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from aoq_ext.training import progress
from aoq_ext.training.progress import TrainingProgress, WholeProgress


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


WORK = {"round 1": 100, "mining": 10, "round 2": 300, "evaluation": 20}


def test_what_is_left_of_all_steps_follows_from_the_rate_so_far() -> None:
    seconds: dict[str, float] = {}
    whole = WholeProgress(WORK, seconds, Console(file=io.StringIO()))
    assert whole.left("round 1", 0) is None
    seconds["round 1"] = 50.0  # of a start whose steps are not known yet
    assert whole.left("round 1", 0) is None
    assert whole.left("round 1", 25) == 2.0 * (75 + 10 + 300 + 20)
    seconds |= {"round 1": 100.0, "mining": 10.0}
    assert whole.left("round 2", 0) == 320
    seconds["round 2"] = 290.0  # slower: 400 seconds for 260 of work
    assert whole.left("round 2", 150) == pytest.approx(400 / 260 * 170)
    assert whole.left("evaluation", 20) == 0


def test_steps_of_unknown_duration_do_not_count_for_the_rate() -> None:
    assert WholeProgress(WORK, {"round 2": 30.0}, Console(file=io.StringIO())).left("round 2", 30) == 290


def test_the_time_left_is_a_line_a_minute_without_a_terminal(clock: list[float]) -> None:
    said = io.StringIO()
    seconds: dict[str, float] = {}
    whole = WholeProgress(WORK, seconds, Console(file=said))
    with whole.shown():
        for step in range(1, 8):
            clock[0] += 20
            seconds["round 1"] = 20.0 * step
            whole.update("round 1", 10 * step)
    assert said.getvalue().splitlines() == [
        "all steps: 7% done, about 13 min 20 s left",
        "all steps: 14% done, about 12 min 20 s left",
    ]


def test_a_bar_on_a_terminal_is_beside_that_of_the_run() -> None:
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=100)
    whole = WholeProgress(WORK, {"round 1": 20.0}, console)
    with whole.shown(), TrainingProgress("round1", 4, 40, console=console) as run:
        whole.update("round 1", 10)
        run.advance(0.25, 1234.5)
        time.sleep(0.3)  # either is drawn ten times a second
    assert "about 14 min left" in said.getvalue()
    assert "all steps" in said.getvalue()
    assert "pairs/s" in said.getvalue()
