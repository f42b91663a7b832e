"""How far mining is, in words, on a terminal and elsewhere."""

from __future__ import annotations

import io
import sys
import time

import pytest

from aoq_ext.mining import progress as mining_progress
from aoq_ext.mining.progress import MiningDisplay, MiningProgress, count, duration, size


def test_words_for_numbers() -> None:
    assert [count(n) for n in (0, 950, 12_345, 4.5e6, 7e9, 3e12)] == [
        "0", "950", "12.3 thousand", "4.5 million", "7 billion", "3 trillion",
    ]  # fmt: skip
    assert [duration(s) for s in (0.4, 59.6, 200, 18_720, 200_000)] == [
        "0 s", "1 min 0 s", "3 min 20 s", "5 h 12 min", "2 d 7 h",
    ]  # fmt: skip
    assert [size(b) for b in (812, 3.4e6, 2e12)] == ["812 B", "3.4 MB", "2 TB"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rich", [True, False])
def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, rich: bool) -> None:
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    stream = Terminal()
    with MiningDisplay(stream, every=0.0) as display:
        for scores in (100, 300, 1000):
            display.update(MiningProgress(scores, 1000, scores // 300, 4))
            time.sleep(0.15)
    assert "scores/s" in stream.getvalue()
    assert ("mining" in stream.getvalue()) == rich


def test_progress_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 1.0, 11.0, 21.0])
    monkeypatch.setattr(mining_progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with MiningDisplay(stream) as display:
        for scores in (500, 600, 1600, 2000):
            display.update(MiningProgress(scores, 4000, scores // 1000, 4))
    assert stream.getvalue() == (
        " 40.0%  1.6 thousand of 4 thousand scores, 1 of 4 parts on the disk, 100 scores/s, 24 s left\n"
        " 50.0%  2 thousand of 4 thousand scores, 2 of 4 parts on the disk, 71 scores/s, 28 s left\n"
    )


def test_progress_counts_each_part_of_the_work_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are mined, and then scored."""
    clock = iter([0.0, 0.0, 20.0, 40.0, 60.0])
    monkeypatch.setattr(mining_progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with MiningDisplay(stream) as display:
        for scores, total in ((1000, 4000), (4000, 4000), (100, 500), (200, 500)):
            display.update(MiningProgress(scores, total, 0, 4))
    assert stream.getvalue().splitlines()[1:] == [
        " 20.0%  100 of 500 scores, 0 of 4 parts on the disk, ",
        " 40.0%  200 of 500 scores, 0 of 4 parts on the disk, 5 scores/s, 1 min 0 s left",
    ]
