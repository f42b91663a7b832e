"""SIGKILL at any moment: the run goes on from its folder and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("lightning_fabric")

from aoq_ext.training import History, OfflineLists, TrainConfig, train
from aoq_ext.training.checkpoint import load_checkpoint
from aoq_ext.training.run import RunFiles
from tests.training.test_resume import final, remining, same
from tests.training.test_toy import toy_config

KILLS = 60
ROOT = Path(__file__).parents[2]


def config_of(run: Path) -> TrainConfig:
    """Mines twice, and writes something every other step."""
    return toy_config(run, checkpoint_every=2, **remining(remine_every=1))


def child(run: Path, operation: int | None) -> None:
    """Train, and die before the ``operation``-th time that a file is brought to the disk or gets its name."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    left = operation

    def counted(function: object) -> object:
        def call(*arguments: object, **options: object) -> object:
            nonlocal left
            if left is not None:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)  # type: ignore[operator]

        return call

    for name in ("fsync", "replace", "rename", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    train(config_of(run), resume=True)


def serve(folder: Path, seed: int) -> None:
    """Kill and continue runs until there were so many kills and the last run is complete; a line for each process.

    A fork has everything imported, so that a run takes a second and not ten.
    """
    choice = random.Random(seed)
    kills, number, longest = 0, 0, 0.8  # seconds after which a run is let live
    while True:
        run = folder / str(number)
        by_clock = kills % 2 == 0
        started = time.monotonic()
        if (process := os.fork()) == 0:
            child(run, None if by_clock or kills >= KILLS else choice.randrange(30))
            os._exit(0)
        if by_clock and kills < KILLS:
            time.sleep(choice.uniform(0, longest))
            os.kill(process, signal.SIGKILL)  # to no effect where it ended meanwhile
        _, status = os.waitpid(process, 0)
        done = status == 0
        step = load_checkpoint(RunFiles(run).last)["step"] if RunFiles(run).last.exists() else 0
        print(number, step, "done" if done else "killed" if os.WTERMSIG(status) == signal.SIGKILL else "failed")
        if not done and os.WTERMSIG(status) != signal.SIGKILL:
            return
        kills += not done
        if done and kills >= KILLS:
            return
        if done:
            number += 1
            longest = 0.8 * (time.monotonic() - started)


def test_killed_anywhere_a_run_ends_as_undisturbed(tmp_path: Path) -> None:
    train(config_of(tmp_path / "whole"))
    expected = final(config_of(tmp_path / "whole"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, __file__, str(tmp_path), "0"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[2] for line in lines].count("killed") == KILLS, result.stderr[-3000:]
    assert lines[-1][2] == "done", result.stderr[-3000:]
    runs = [int(line[0]) for line in lines]
    for number in range(runs[-1] + 1):
        steps = [int(line[1]) for line in lines if int(line[0]) == number]
        assert steps == sorted(steps)  # a checkpoint is never lost
        ended_as(config_of(tmp_path / str(number)), config_of(tmp_path / "whole"), expected)


def ended_as(config: TrainConfig, whole: TrainConfig, expected: dict[str, object]) -> None:
    files, others = RunFiles(config.run), RunFiles(whole.run)
    assert same(final(config), expected)
    assert same(load_checkpoint(files.best), load_checkpoint(others.best))
    assert same(History.load(files.history).to_dict(), History.load(others.history).to_dict())
    lists, undisturbed = (OfflineLists.load(of.mined_lists(2)).fingerprint() for of in (files, others))
    assert lists == undisturbed
    assert not list(files.folder.glob("**/*.tmp"))


def test_a_run_killed_after_its_last_checkpoint_still_writes_its_history(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", epochs=1)
    train(config)
    history = RunFiles(config.run).history
    whole = history.read_text()
    history.unlink()
    train(config, resume=True)
    assert history.read_text() == whole


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    serve(Path(sys.argv[1]), int(sys.argv[2]))
