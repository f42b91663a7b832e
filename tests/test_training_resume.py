"""A run that stops and goes on ends where one that never stopped does."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning_fabric")

from test_training_toy import adaptive, mined, toy_config, trained

from aoq_ext.training import ConfigError, History, OfflineLists, TrainConfig, train
from aoq_ext.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from aoq_ext.training.run import RunFiles


class Stop(Exception):
    """Ends a run from inside."""


def stop_at(step: int) -> Any:
    def on_step(steps: int) -> None:
        if steps == step:
            raise Stop

    return on_step


def same(first: Any, second: Any) -> bool:
    """Bitwise equality of nested states, but for how long things took."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first if k != "seconds")
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def final(config: TrainConfig) -> dict[str, Any]:
    state = load_checkpoint(RunFiles(config.run).last)
    del state["config"]["run"]
    return state


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("round1")
    return mined(trained(folder, epochs=2), folder)


@pytest.mark.parametrize("stops", [[1], [4], [5], [8, 11], [3, 6, 14]], ids=str)
@pytest.mark.parametrize("objective", ["online_triplet", "adaptive_quintuplet"])
def test_resumed_equals_uninterrupted(tmp_path: Path, lists: Path, objective: str, stops: list[int]) -> None:
    changes = adaptive(lists) if objective == "adaptive_quintuplet" else {}
    whole = toy_config(tmp_path / "whole", **changes)
    train(whole)
    parts = toy_config(tmp_path / "parts", **changes)
    for stop in stops:
        with pytest.raises(Stop):
            train(parts, resume=True, on_step=stop_at(stop))
    train(parts, resume=True)
    assert same(final(parts), final(whole))
    assert same(History.load(RunFiles(parts.run).history).steps, History.load(RunFiles(whole.run).history).steps)
    best, expected = (load_checkpoint(RunFiles(config.run).best) for config in (parts, whole))
    assert same(best, expected)


KILL = """
import os, signal, sys
from pathlib import Path
from test_training_toy import toy_config
from aoq_ext.training import train

def kill(steps):
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

train(toy_config(Path(sys.argv[1])), resume=True, on_step=kill)
"""


def test_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    killed = toy_config(tmp_path / "killed")
    command = [sys.executable, "-c", KILL, killed.run, "8"]
    result = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert load_checkpoint(RunFiles(killed.run).last)["step"] == 6  # the last multiple of checkpoint_every before 8
    train(killed, resume=True)
    whole = toy_config(tmp_path / "whole")
    train(whole)
    assert same(final(killed), final(whole))
    assert not list(Path(killed.run).glob("*.tmp"))


def test_same_seed_same_weights_other_seed_other_weights(tmp_path: Path) -> None:
    states = []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.manual_seed(len(states))  # what the caller drew before must not matter
        config = toy_config(tmp_path / name, seed=seed, epochs=1)
        train(config)
        states.append(final(config)["model"])
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_training_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(toy_config(tmp_path / "run", epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", epochs=1)
    train(config)
    before = final(config)
    train(config, resume=True)
    assert same(final(config), before)


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", epochs=1)
    train(config)
    with pytest.raises(ConfigError, match=r"run: .* already holds a run; continue it with --resume"):
        train(config)


def test_resuming_with_another_configuration_is_refused(tmp_path: Path) -> None:
    train(toy_config(tmp_path / "run", epochs=1))
    with pytest.raises(ConfigError, match=r"epochs: the run to resume was started with 1, got 2"):
        train(toy_config(tmp_path / "run", epochs=2), resume=True)


def test_resuming_with_other_lists_is_refused(tmp_path: Path, lists: Path) -> None:
    folder = tmp_path / "lists"
    original = OfflineLists.load(lists)
    original.save(folder)
    config = toy_config(tmp_path / "run", **adaptive(folder))
    with pytest.raises(Stop):
        train(config, on_step=stop_at(8))
    replace(original, texts=original.texts[:, ::-1]).save(folder)
    with pytest.raises(ConfigError, match="run: the offline lists of the run to resume changed since it was started"):
        train(config, resume=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", epochs=1)
    train(config)
    last = RunFiles(config.run).last
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last.ckpt cannot be read as a checkpoint"):
        train(config, resume=True)


def test_an_empty_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    path.touch()
    with pytest.raises(CheckpointError, match=r"best.ckpt cannot be read as a checkpoint: \w+"):
        load_checkpoint(path)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"last.ckpt cannot be written: No space left on device"):
        save_checkpoint(tmp_path / "last.ckpt", {"step": 1})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_save_left_behind_goes(tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "run")
    files.folder.mkdir()
    stale, other = files.folder / ".last.ckpt.ab_12.tmp", files.folder / ".mine.tmp"
    stale.touch()
    other.touch()
    train(toy_config(files.folder, epochs=1))
    assert not stale.exists()
    assert other.exists()


def test_a_folder_is_trained_by_one_process(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", epochs=1)
    with RunFiles(config.run).locked(), pytest.raises(ConfigError, match="run is being trained by another process"):
        train(config)
    train(config)
