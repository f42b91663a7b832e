"""The work of a study: first rounds, minings and arms, each when what it needs is there. What is done stays done."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aoq_ext._files import write_atomically, write_json
from aoq_ext.metrics import RetrievalRanks, ranks_from_embeddings, ranks_from_scores
from aoq_ext.training import History, OfflineLists, TrainConfig, load_run, train
from aoq_ext.training.config import ConfigError, to_dict
from aoq_ext.training.encode import EncodedSplit
from aoq_ext.training.mining import MiningOptions, mine_into
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.run import RunFiles
from study.arms import RANDOM, Arm, Question, Setting
from study.bank import train_with_bank
from study.data import icons_version

RESULT, RANKS = "result.json", "ranks.npz"


@dataclass(frozen=True)
class Job:
    """A training run with its evaluation, or, with ``mining``, a mining with the best weights of one."""

    folder: Path  # what it makes
    seed: int
    needs: tuple[Path, ...]  # folders of other jobs
    config: TrainConfig
    test_split: str
    candidates: int = 0
    mining: dict[str, Any] | None = None
    cost: float = 0.0  # in plain epochs

    def finished(self) -> bool:
        """Whether it was done, under this configuration."""
        if self.mining is not None:
            return _holds_lists(self.folder)
        return (result := _read(self.folder)) is not None and result["config"] == _comparable(self)

    def __call__(self) -> tuple[Path, float, str]:
        """The folder, seconds, and what there is to say."""
        started = time.perf_counter()
        torch.set_num_threads(self.config.threads or 1)
        if self.mining is not None:
            mine_into(self.folder, load_run(self.needs[0]), MiningOptions(**self.mining))
            return self.folder, time.perf_counter() - started, "mined"
        result = self._train(started)
        return self.folder, time.perf_counter() - started, f"rsum {result['metrics']['rsum']:.1f}"

    def _train(self, started: float) -> dict[str, Any]:
        from rich.console import Console

        with open(os.devnull, "w") as quiet:
            console = Console(file=quiet)
            if self.candidates:
                train_with_bank(self.config, self.candidates, console)
            else:
                train(self.config, resume=True, console=console)
        ranks = test_ranks(self.folder, self.test_split)
        arrays = {"i2t": ranks.i2t.numpy(), "t2i": ranks.t2i.numpy(), "owner": ranks.text_image_index.numpy()}
        write_atomically(self.folder / RANKS, lambda file: np.savez(file, allow_pickle=False, **arrays))
        history = History.load(RunFiles(self.folder).history)
        result = {
            "metrics": ranks.metrics(),
            "cost": self.cost,
            "seconds": sum(entry["seconds"] for entry in history.epochs),
            "steps": history.epochs[-1]["step"],
            "diagnostics": history.steps[-1] if history.steps else {},
            "config": _comparable(self),
        }
        write_json(self.folder / RESULT, result)  # the last file: what has it is finished
        return result


def test_ranks(folder: Path, split: str) -> RetrievalRanks:
    """Of a run's best weights."""
    run = load_run(folder)
    pairs = EncodedPairs(load_split(run.config.data, split), run.vocabulary)
    encoded, owners = EncodedSplit.of(run.model, pairs), torch.from_numpy(pairs.caption_image)
    if run.model.embeds:
        return ranks_from_embeddings([encoded.vectors()], owners)
    return ranks_from_scores(encoded.matrix(), owners)


def _comparable(job: Job) -> dict[str, Any]:
    """The configuration without what may be elsewhere or otherwise in another call."""
    config = replace(job.config, run="", threads=None, init=job.config.init and Path(job.config.init).name)
    lists = job.config.offline.lists
    config.offline = replace(config.offline, lists=lists and "/".join(Path(lists).parts[-2:]))
    config.data = replace(config.data, root=None)
    return {**to_dict(config), "candidates": job.candidates, "icons": icons_version()}


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / RESULT
    result: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return result


def _holds_lists(folder: Path) -> bool:
    try:
        OfflineLists.load(folder, checksums=False)
    except ConfigError:
        return False
    return True


@dataclass
class Plan:
    """All jobs of some questions, each once."""

    work: Path
    threads: int
    jobs: dict[Path, Job] = field(default_factory=dict)

    def add(self, question: Question, seeds: int) -> None:
        arms = {arm.name: arm for arm in question.arms}
        for seed in range(seeds):
            for arm in question.arms:
                self._arm(question.setting, arm, arms, seed)

    def folder(self, setting: Setting, arm: str, seed: int) -> Path:
        return self.work / setting.name / f"seed{seed}" / arm

    def _arm(self, setting: Setting, arm: Arm, arms: dict[str, Arm], seed: int) -> None:
        folder = self.folder(setting, arm.name, seed)
        if folder in self.jobs:
            return
        config = copy.deepcopy(arm.config(setting))
        config.run, config.seed, config.threads = str(folder), seed, self.threads
        needs = []
        if arm.start != RANDOM:
            config.init = str(self.folder(setting, arm.start, seed))
            needs.append(Path(config.init))
            self._arm(setting, arms[arm.start], arms, seed)
        if (miner := arm.miner(setting)) is not None:
            self._arm(setting, arms[miner], arms, seed)
            lists = self._mining(setting, arm, miner, config, seed)
            config.offline.lists = str(lists)
            needs.append(lists)
        self.jobs[folder] = Job(
            folder, seed, tuple(needs), config, setting.test_split, arm.candidates, cost=arm.cost(setting)
        )

    def _mining(self, setting: Setting, arm: Arm, miner: str, config: TrainConfig, seed: int) -> Path:
        k = max(config.offline.top_texts, setting.mined_texts)
        k_reverse = max(config.offline.top_images, setting.mined_texts // 5)
        run = self.folder(setting, miner, seed)
        rules = "".join(f"-{name}{value}" for name, value in sorted(arm.rules.items()))
        lists = run / f"lists-{k}-{k_reverse}{rules}"
        mining = {"k": k, "k_reverse": k_reverse, **arm.rules}
        self.jobs[lists] = Job(lists, seed, (run,), config, setting.test_split, mining=mining)
        return lists

    @property
    def seeds(self) -> int:
        """As many as the question with the most has."""
        return 1 + max((job.seed for job in self.jobs.values()), default=-1)

    def waiting(self) -> list[Job]:
        """Lowest seed first, so that a study cut short has whole seeds."""
        return sorted((job for job in self.jobs.values() if not job.finished()), key=lambda job: job.seed)


class _Here(Executor):
    """One process is this one: it need not start."""

    def submit(self, function: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*given, **named))
        except Exception as error:
            future.set_exception(error)
        return future


def _pool(processes: int) -> Executor:
    # A forked child would inherit torch's threads in an unknown state.
    spawn = multiprocessing.get_context("spawn")
    return _Here() if processes <= 1 else ProcessPoolExecutor(processes, mp_context=spawn)


def carry_out(plan: Plan, processes: int) -> Iterator[tuple[int, int, Path, float, str]]:
    """Do what is left, and yield (how many are done, of how many, folder, seconds, words) as each is.

    What needs a job that failed is left out; the first error is raised when nothing else is left to do.
    """
    waiting = plan.waiting()
    total, done = len(waiting), 0
    missing = {job.folder for job in waiting}
    running: dict[Future[tuple[Path, float, str]], Job] = {}
    failed: list[BaseException] = []
    with _pool(min(processes, total)) as pool:
        while True:
            for job in _ready(waiting, missing)[: processes - len(running)]:
                waiting.remove(job)
                running[pool.submit(job)] = job
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                done += 1
                if (error := future.exception()) is not None:
                    failed.append(error)
                    yield done, total, job.folder, 0.0, f"failed: {error}"
                    continue
                missing.discard(job.folder)
                yield done, total, *future.result()
    if failed:
        raise failed[0]


def _ready(waiting: Iterable[Job], missing: set[Path]) -> list[Job]:
    return [job for job in waiting if missing.isdisjoint(job.needs)]


def read_results(plan: Plan) -> dict[Path, dict[str, Any]]:
    """The results of the runs that are finished."""
    runs = (job for job in plan.jobs.values() if job.mining is None)
    return {job.folder: result for job in runs if job.finished() and (result := _read(job.folder)) is not None}


def read_ranks(folder: Path) -> RetrievalRanks:
    with np.load(folder / RANKS) as file:
        i2t, t2i, owner = (torch.from_numpy(file[name]) for name in ("i2t", "t2i", "owner"))
    return RetrievalRanks(i2t, t2i, owner)
