"""Several processes train what one does: the same pairs, the same negatives, the same weights to rounding."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning_fabric")

import yaml
from rich.console import Console

from aoq_ext.parallel import ALONE, LostProcessError, advising, joined
from aoq_ext.parallel.lost import exchanging
from aoq_ext.training import ConfigError, History, OfflineConfig, OfflineLists, TrainConfig, train
from aoq_ext.training.checkpoint import load_checkpoint
from aoq_ext.training.config import to_dict
from aoq_ext.training.processes import start
from aoq_ext.training.run import RunFiles
from tests.processes import launch
from tests.training.test_micro_batch import Stop, flat, stop_at
from tests.training.test_resume import remining, same
from tests.training.test_toy import adaptive, mined, toy_config, trained

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("round1")
    return mined(trained(folder, epochs=2), folder)


def without_batch_norm(folder: Path, lists: Path) -> dict[str, TrainConfig]:
    """Runs whose arithmetic does not depend on how a batch is shared out. 9 pairs: shares of 5 and 4."""
    changes = {
        "online": {},
        "given": {**adaptive(lists), "batch_size": 9},
        "micro": {**adaptive(lists), "batch_size": 9, "micro_batch": 2},
        "accumulated": {"accumulate": 2, "epochs": 2},
        "mined": remining(remine_every=1),
        "hard": {"offline": OfflineConfig(lists=str(lists), batch_share=0.5), "batch_size": 9},
    }
    return {name: toy_config(folder / name, log_every=1, **flat(**change)) for name, change in changes.items()}


def spread(rank: int, folder: Path, lists: Path) -> None:
    for config in without_batch_norm(folder, lists).values():
        text = io.StringIO()
        train(config, console=Console(file=text))
        assert bool(text.getvalue()) == (rank == 0)  # one process speaks
    with_dropout_and_batch_norm(rank, folder)
    what_cannot_work(rank, folder)


def with_dropout_and_batch_norm(rank: int, folder: Path) -> None:
    """Started twice, or stopped and resumed: the same bits."""
    for name in ("again", "whole"):
        train(toy_config(folder / name))
    parts = toy_config(folder / "parts")
    with pytest.raises(Stop):
        train(parts, on_step=stop_at(8))
    train(parts, resume=True)
    states = [load_checkpoint(RunFiles(folder / name).last) for name in ("again", "whole", "parts")]
    for state in states:
        del state["config"]["run"]
    assert same(states[0], states[1])
    assert same(states[2], states[1])
    train(toy_config(folder / "fine", init=str(folder / "whole"), epochs=1))


def what_cannot_work(rank: int, folder: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a run"):
        train(toy_config(folder / "whole"))
    with pytest.raises(ConfigError, match="batch_size: expected at least one pair for each of the 2 processes, got 1"):
        start(replace(toy_config(folder / "small"), batch_size=1))
    # What the leader alone cannot do stops all.
    blocked = folder / "blocked"
    if rank == 0:
        blocked.write_text("not a folder")
    torch.distributed.barrier()
    with pytest.raises((OSError, RuntimeError), match=r"exists|directory|rank 0 failed while taking"):
        train(toy_config(blocked))


def test_processes_train_what_one_does(tmp_path: Path, lists: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    launch(2, spread, two, lists)
    for name, config in without_batch_norm(one, lists).items():
        train(config)
        alone, together = RunFiles(one / name), RunFiles(two / name)
        expected, got = load_checkpoint(alone.last), load_checkpoint(together.last)
        assert got["step"] == expected["step"], name
        torch.testing.assert_close(got["model"], expected["model"], rtol=1e-3, atol=2e-4)
        first, second = History.load(alone.history), History.load(together.history)
        for before, after in zip(first.steps, second.steps, strict=True):
            rounding = 1e-5 if before["step"] <= 3 else 1e-3  # the optimizer magnifies it from step to step
            # Shares of comparisons: a near-tie may fall the other way.
            shares = {key: before.pop(key) - after.pop(key) for key in ("harder", "active") if key in before}
            assert all(abs(share) < 0.1 for share in shares.values()), name
            assert after == pytest.approx(before, rel=rounding, abs=rounding / 10), name
        if name != "mined":  # a near-tie may fall the other way in lists mined with other roundings
            metrics = [[epoch["validation"]["rsum"] for epoch in history.epochs] for history in (first, second)]
            assert metrics[1] == pytest.approx(metrics[0], abs=6)
    assert not list(two.glob("*/*.tmp"))
    assert OfflineLists.load(RunFiles(two / "mined").mined_lists(2)).texts.shape == (40, 20)


def same_model(rank: int, folder: Path) -> None:
    """Evaluation and mining of the same weights: the same numbers, to the bit, whatever the number of processes."""
    from aoq_ext.training import load_run
    from aoq_ext.training.encode import encode_images, encode_texts
    from aoq_ext.training.evaluation import evaluate
    from aoq_ext.training.mining import MiningOptions, mine_model
    from aoq_ext.training.pairs import EncodedPairs, load_split

    start(toy_config(folder))
    processes = joined()
    run = load_run(folder / "round1")
    pairs = EncodedPairs(load_split(run.config.data, "train"), run.vocabulary)
    with pytest.MonkeyPatch.context() as patch:
        for batch_size, exchanged, in_memory in ((7, 64, 1 << 30), (16, 1, 1 << 30), (100, 64, 1 << 30), (5, 2, 0)):
            patch.setattr("aoq_ext.training.encode._EXCHANGED", exchanged)
            patch.setattr("aoq_ext.training.encode._FEATURES_IN_MEMORY", in_memory)
            for encode, side in (
                (encode_images, (pairs.data.images,)), (encode_texts, (pairs.tokens, pairs.lengths)),
            ):  # fmt: skip
                one, three = (encode(run.model, *side, batch_size, who).values for who in (ALONE, processes))
                assert torch.equal(one, three)
    assert evaluate(run.model, pairs, processes=processes) == evaluate(run.model, pairs)
    expected, got = (mine_model(run.model, pairs, MiningOptions(30, 15), processes=who) for who in (ALONE, processes))
    assert got.fingerprint() == expected.fingerprint()
    assert (got.text_scores == expected.text_scores).all() and (got.image_scores == expected.image_scores).all()
    sums_and_copies(processes)


def sums_and_copies(processes: Any) -> None:
    model = torch.nn.ModuleList(torch.nn.Linear(3, 2) for _ in range(3))
    rank, world = processes.rank, processes.world
    model[0].weight.grad = torch.full((2, 3), 1.0 + rank)
    if rank == 1:
        model[1].weight.grad = torch.ones(2, 3)
    processes.sum_gradients(model)
    assert (model[0].weight.grad == sum(range(1, world + 1))).all()
    assert (model[1].weight.grad == 1).all()
    assert model[2].weight.grad is None  # of nobody: an optimizer leaves it alone
    tensors = [torch.full((3,), float(rank)), torch.tensor(rank), torch.full((2, 2), rank, dtype=torch.float64)]
    processes.copy_from_leader(tensors)
    assert all((tensor == 0).all() for tensor in tensors)
    assert processes.gather(torch.arange(rank + 1)).tolist() == [n for r in range(world) for n in range(r + 1)]


def test_evaluation_and_mining_are_those_of_one_process(tmp_path: Path) -> None:
    trained(tmp_path, epochs=1)
    launch(3, same_model, tmp_path)


KILLED = """
import os, signal, time
from aoq_ext.training import load_config, train

def kill(steps):
    if steps == 8 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL) if {how!r} == "killed" else time.sleep(600)

train(load_config({config!r}), resume=True, on_step=kill)
"""


def lose_one(rank: int, folder: Path, how: str) -> None:
    """Rank 1 of three ends, or hangs, while the others wait for it."""
    processes = joined()
    processes.meet("warming up", lambda: None)
    if rank == 1:
        if how == "hangs":
            time.sleep(12)
        os._exit(0)
    stages = {
        "meet": lambda: processes.meet("counting", lambda: rank),
        "gather": lambda: processes.gather(torch.zeros(3), [3, 3, 3]),
        "sum": lambda: processes.sum_gradients(torch.nn.Linear(2, 2)),
    }
    how = "meet" if how == "hangs" else how
    expected = pytest.raises(LostProcessError, match=f"rank {rank} of 3 lost .* while .*; carry on")
    with expected as caught, advising("carry on"):
        stages[how]()
    assert caught.value.rank == rank
    assert set(caught.value.silent) <= {1} and (caught.value.silent or how != "meet"), str(caught.value)
    os._exit(0)


@pytest.mark.parametrize("how", ["meet", "gather", "sum", "hangs"])
def test_a_lost_process_is_one_exception_that_names_it(how: str, tmp_path: Path) -> None:
    launch(3, lose_one, tmp_path, how, timeout=5)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), ValueError("dense"), KeyError("a bug")])
def test_what_is_no_lost_process_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)), exchanging("trying"):
        raise error


def test_objects_of_another_backend_wait_as_long_as_the_run_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(torch.distributed, "new_group", lambda **options: asked.update(options))
    joined(7)
    assert asked == {"backend": "gloo", "timeout": timedelta(seconds=7)}


def torchrun(world: int, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world)]
    launcher.append("--standalone")
    return subprocess.run([*launcher, *command], env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_a_lost_process_ends_the_job_and_another_number_resumes(tmp_path: Path, how: str) -> None:
    """The others end, say why, and the run goes on from its checkpoint."""
    config = toy_config(tmp_path / "run", process_timeout=60 if how == "killed" else 5, **flat())
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    script = tmp_path / "train.py"
    script.write_text(KILLED.format(how=how, config=str(path)))
    started = time.monotonic()
    result = torchrun(2, str(script))
    assert result.returncode != 0
    assert time.monotonic() - started < 120
    said = "rank 0 of 2 lost "
    # The launcher may end the others before they notice; then it says itself which one was killed.
    assert said in result.stderr or (how == "killed" and "SIGKILL" in result.stderr), result.stderr[-3000:]
    assert load_checkpoint(RunFiles(config.run).last)["step"] == 6
    if how == "hanging":
        return
    result = torchrun(3, "-m", "aoq_ext", "train", "--config", str(path), "--resume")
    assert result.returncode == 0, result.stderr[-3000:]
    whole = toy_config(tmp_path / "whole", **flat())
    train(whole)
    expected, got = (load_checkpoint(RunFiles(run).last) for run in (whole.run, config.run))
    torch.testing.assert_close(got["model"], expected["model"], rtol=1e-3, atol=2e-4)
