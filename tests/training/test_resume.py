"""A run that stops and goes on ends where one that never stopped does."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning_fabric")

from aoq_ext.data import ImageTextData
from aoq_ext.training import ConfigError, History, LossConfig, OfflineConfig, OfflineLists, TrainConfig, train
from aoq_ext.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from aoq_ext.training.run import RunFiles
from tests.training.test_toy import adaptive, load_toy, mined, toy_config, trained


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


def remining(**offline: Any) -> dict[str, Any]:
    """The changes that make a toy run mine its own negatives."""
    options = {"top_texts": 20, "top_images": 10, **offline}
    return {"loss": LossConfig(objective="adaptive_quintuplet"), "offline": OfflineConfig(**options)}


@pytest.mark.parametrize("stops", [[1], [4], [5], [8, 11], [3, 6, 14]], ids=str)
@pytest.mark.parametrize("negatives", ["online", "given", "mined", "given, then mined"])
def test_resumed_equals_uninterrupted(tmp_path: Path, lists: Path, negatives: str, stops: list[int]) -> None:
    changes = {
        "online": {},
        "given": adaptive(lists),
        "mined": remining(remine_every=1),
        "given, then mined": remining(lists=str(lists), remine_every=1),
    }[negatives]
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
from tests.training.test_resume import remining
from tests.training.test_toy import toy_config
from aoq_ext.training import OfflineLists, train

def kill(steps=None):
    if steps in (None, int(sys.argv[3])):
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[3] == "mining":  # with one list written
    from aoq_ext._arrays import ArrayWriter
    describe = ArrayWriter.describe
    ArrayWriter.describe = lambda self, path: kill() if "epoch-002" in str(path) else describe(self, path)
    sys.argv[3] = "-1"
changes = remining(remine_every=1) if sys.argv[2] == "mined" else {}
train(toy_config(Path(sys.argv[1]), **changes), resume=True, on_step=kill)
"""


def run_until_killed(run: str, negatives: str, when: str) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", KILL, run, negatives, when]
    result = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()


@pytest.mark.parametrize("negatives", ["online", "mined"])
def test_killed_run_resumes_to_the_same_weights(tmp_path: Path, negatives: str) -> None:
    changes = remining(remine_every=1) if negatives == "mined" else {}
    killed = toy_config(tmp_path / "killed", **changes)
    run_until_killed(killed.run, negatives, "8")
    assert load_checkpoint(RunFiles(killed.run).last)["step"] == 6  # the last multiple of checkpoint_every before 8
    train(killed, resume=True)
    whole = toy_config(tmp_path / "whole", **changes)
    train(whole)
    assert same(final(killed), final(whole))
    assert not list(Path(killed.run).glob("*.tmp"))


def test_a_run_killed_while_it_mines_resumes_to_the_same_weights(tmp_path: Path) -> None:
    killed = toy_config(tmp_path / "killed", **remining(remine_every=1))
    run_until_killed(killed.run, "mined", "mining")
    files = RunFiles(killed.run)
    assert load_checkpoint(files.last)["step"] == 10
    assert {path.name for path in files.negatives.iterdir()} == {
        "epoch-001",
        ".epoch-002.tmp",
    }  # the old ones are whole
    OfflineLists.load(files.mined_lists(1))
    train(killed, resume=True)
    whole = toy_config(tmp_path / "whole", **remining(remine_every=1))
    train(whole)
    assert same(final(killed), final(whole))
    assert {path.name for path in files.negatives.iterdir()} == {"epoch-002"}


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[RunFiles], object]] = {
    "nothing": lambda files: None,
    "no lists": lambda files: shutil.rmtree(files.negatives),
    "lists cut short": lambda files: damage(files.mined_lists(1) / "reverse_indices.npy"),
    "no manifest": lambda files: (files.mined_lists(1) / "manifest.json").unlink(),
    "other lists": lambda files: put_other_lists(files),
}


def put_other_lists(files: RunFiles) -> None:
    """Whole, of the right weights by their own account, and wrong."""
    lists = OfflineLists.load(files.mined_lists(1))
    texts, images = lists.texts[:, ::-1].copy(), lists.images.copy()
    replace(lists, indices=texts, reverse_indices=images).save(files.mined_lists(1))


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("checkpoint", [6, 100], ids=["past the mining", "at the mining"])
def test_lost_lists_are_mined_again_to_the_same_bits(tmp_path: Path, what: str, checkpoint: int) -> None:
    changes = {"epochs": 2, "checkpoint_every": checkpoint, **remining(remine_every=3)}
    whole, parts = (toy_config(tmp_path / name, **changes) for name in ("whole", "parts"))
    train(whole)
    with pytest.raises(Stop):
        train(parts, on_step=stop_at(8))
    files = RunFiles(parts.run)
    assert load_checkpoint(files.last)["step"] == (6 if checkpoint == 6 else 5)
    DAMAGE[what](files)
    train(parts, resume=True)
    assert same(final(parts), final(whole))
    mined, expected = (OfflineLists.load(RunFiles(config.run).mined_lists(1)) for config in (parts, whole))
    assert mined.fingerprint() == expected.fingerprint()


def test_lists_that_cannot_be_mined_again_are_refused(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", **remining(remine_every=3))
    files = RunFiles(config.run)
    with pytest.raises(Stop):
        train(config, on_step=stop_at(9))
    content = load_checkpoint(files.miner)
    shutil.rmtree(files.negatives)
    files.miner.unlink()
    with pytest.raises(CheckpointError, match=r"miner.ckpt is missing"):
        train(config, resume=True)
    content["model"] = load_checkpoint(files.last)["model"]
    save_checkpoint(files.miner, content)
    with pytest.raises(ConfigError, match=r"epoch-001 does not hold the lists .* and .*miner.ckpt not the weights"):
        train(config, resume=True)


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
    replace(original, indices=original.indices[:, ::-1].copy()).save(folder)
    with pytest.raises(ConfigError, match="run: the offline lists of the run to resume changed since it was started"):
        train(config, resume=True)


@pytest.mark.parametrize("split", ["train", "val"])
def test_resuming_with_other_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    config = toy_config(tmp_path / "run")
    with pytest.raises(Stop):
        train(config, on_step=stop_at(8))

    def repaired(asked: str = "train") -> ImageTextData:
        data = load_toy(asked)
        return data if asked != split else replace(data, captions=[*data.captions[1:], data.captions[0]])

    monkeypatch.setattr("tests.training.test_toy.load_toy", repaired)
    name = {"train": "training", "val": "validation"}[split]
    with pytest.raises(ConfigError, match=f"run: the {name} set of the run to resume changed since it was started"):
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
