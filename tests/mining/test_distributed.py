"""Mining between files by several processes: the files are those of one, and no rank waits for one that is gone."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("numpy")

from aoq_ext.mining.progress import MiningProgress
from tests.lists.test_files import content, mine, problem, stopped
from tests.processes import launch

TIMEOUT = 6  # seconds


def all_of_it(rank: int, root: Path) -> None:
    """One start of the processes for everything that leaves them whole: starting them is what takes time."""
    seen: list[MiningProgress] = []
    mine(root / "fresh", on_progress=seen.append)
    assert seen[-1].scores == seen[-1].total
    mine(root / "fresh")
    mine(root / "begun")  # by one process
    mine(root / "more-ranks-than-shards", shard_rows=40)
    mine(root / "one-shard", shard_rows=1000)

    with pytest.raises(RuntimeError if rank else ValueError, match="k: .* with 6, got 5" if rank == 0 else "rank 0"):
        mine(root / "fresh", k=5)
    with pytest.raises(ValueError, match="k must be the same on every rank, but differs between rank 0 and rank 1"):
        mine(root / "other", k=5 + rank)
    with pytest.raises(ValueError, match="skip must be at least 0"):
        mine(root / "other", skip=-1)
    wrong_arguments = {"k": 0, "margin": "far", "texts": "rows", "shard_rows": 0}
    for name, wrong in wrong_arguments.items():
        expected = f"{name} must be" if rank == 1 else f"rank 1 failed while checking the arguments: .*{name} must be"
        with pytest.raises((TypeError, ValueError) if rank == 1 else RuntimeError, match=expected):
            mine(root / "other", **({name: wrong} if rank == 1 else {}))
    bad = torch.full_like(problem()["anchors"], torch.nan) if rank == 1 else problem()["anchors"]
    expected = "anchors must be finite" if rank == 1 else "rank 1 failed while reading the embeddings: ValueError: anch"
    with pytest.raises(ValueError if rank == 1 else RuntimeError, match=expected):
        mine(root / "other", anchors=bad)

    def fail(now: MiningProgress) -> None:
        if rank == 1 and now.shards >= 2:
            raise KeyError("a bug")

    with pytest.raises(KeyError if rank == 1 else RuntimeError, match="a bug"):
        mine(root / "failed", on_progress=fail)
    mine(root / "failed")


@pytest.mark.parametrize("world", [2, 3])
def test_the_files_are_those_of_one_process(tmp_path: Path, world: int) -> None:
    mine(tmp_path / "whole")
    whole = content(tmp_path / "whole")
    stopped(tmp_path / "begun", shards=3)
    launch(world, all_of_it, tmp_path, timeout=TIMEOUT)
    for name in ("fresh", "begun", "failed"):
        assert content(tmp_path / name) == whole
    for name in ("more-ranks-than-shards", "one-shard"):
        lists = content(tmp_path / name)
        assert all(lists[file] == whole[file] for file in whole if file.endswith(".npy"))


def leave(rank: int, root: Path, when: str) -> None:
    def on_progress(now: MiningProgress) -> None:
        if rank == 1 and now.shards == 2:
            if when == "hangs":
                time.sleep(1.5 * TIMEOUT)
            os._exit(0)

    start = time.monotonic()
    try:
        mine(root / "out", on_progress=on_progress)
    except RuntimeError as error:
        (root / f"{rank}.txt").write_text(f"{time.monotonic() - start}\n{error}")
    os._exit(0)


@pytest.mark.parametrize("when", ["dies", "hangs"])
def test_a_rank_that_is_gone_ends_the_others_and_the_work_goes_on(tmp_path: Path, when: str) -> None:
    mine(tmp_path / "whole")
    launch(2, leave, tmp_path, when, timeout=TIMEOUT)
    seconds, message = (tmp_path / "0.txt").read_text().split("\n", 1)
    assert float(seconds) < 1.5 * TIMEOUT
    assert re.match("rank 0 of 2 lost (rank 1|another rank) while mining shards 2, 3: it ended, or did not", message)
    assert message.endswith("the same command continues the work")
    seen: list[MiningProgress] = []
    mine(tmp_path / "out", on_progress=seen.append)
    assert seen[0].shards >= 3
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_processes_that_nobody_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"a launcher started WORLD_SIZE=2 processes, but torch\.distributed is not"):
        mine(tmp_path)
