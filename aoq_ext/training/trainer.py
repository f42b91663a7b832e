"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from aoq_ext.data import DataError
from aoq_ext.parallel import Processes, advising, joined, parting
from aoq_ext.training import streams
from aoq_ext.training.batches import PairBatches
from aoq_ext.training.checkpoint import load_checkpoint, restore_model, save_checkpoint
from aoq_ext.training.config import ConfigError, TrainConfig, check, check_same_run, needs_offline, to_dict
from aoq_ext.training.defaults import torch_defaults
from aoq_ext.training.evaluation import evaluate
from aoq_ext.training.feed import Feed
from aoq_ext.training.initial import load_initial
from aoq_ext.training.journal import Journal, TrainingError
from aoq_ext.training.model import build_model
from aoq_ext.training.negatives import RunNegatives
from aoq_ext.training.objective import TrainingObjective
from aoq_ext.training.offline import fingerprint_data
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.processes import start
from aoq_ext.training.run import RunFiles
from aoq_ext.training.schedule import learning_rate
from aoq_ext.training.tokens import fingerprint_tokens, make_tokenizer
from aoq_ext.training.update import Update

__all__ = ["Trainer", "TrainingError", "train"]


@torch_defaults()
def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Path:
    """Train one model; returns the run's folder.

    A run is a function of its configuration: started twice, or killed and resumed anywhere, it ends with the same
    weights, bit for bit, on a CPU of the same kind with the same number of threads.

    Processes that torchrun started (``torchrun --nproc-per-node 2 -m -- aoq_ext train ...``) train one model together,
    each on its share of every batch. What they compute is what one process does, to rounding, but for dropout (each
    draws its own) and layers that normalise over the batch (each sees its share; the first one's running statistics
    count). They need the run's folder in common.

    Args:
        config: what to train, on what, and where to write.
        resume: continue from the run's last checkpoint, or start when there is none yet. The number of processes may
            be another than before.
        console: where progress goes.
        on_step: called after each step with the number of steps taken so far.

    Where a launcher started several processes, they are joined for the run, or stay as they are if they were joined
    before: a program that trains more than once under one launcher calls ``init_process_group`` itself.

    Raises:
        ConfigError: an entry that cannot work; it is named.
        TrainingError: the loss or the weights are not finite. CollapseError: see `CollapseDetector`.
        LostProcessError: another process ended, or did not answer within ``process_timeout``.
    """
    check(config)
    files = RunFiles(config.run)
    _refuse_overwriting(files, resume)
    threads = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(), parting(), ExitStack() as held:
            fabric = start(config)
            processes = joined(config.process_timeout)
            held.enter_context(advising("the same command with --resume continues from the last checkpoint"))
            trainer = Trainer(config, files, fabric, processes, console, on_step)

            def take() -> bool:
                held.enter_context(files.locked())
                _refuse_overwriting(files, resume)  # another process may have trained there meanwhile
                return files.last.exists()

            if processes.by_leader("taking the folder of the run", take):
                processes.meet("reading the checkpoint", lambda: trainer.restore(load_checkpoint(files.last)))
                processes.by_leader("writing the configuration", lambda: files.write_config(config))
            trainer.fit()
    finally:
        torch.set_num_threads(threads)
    return files.folder


def _refuse_overwriting(files: RunFiles, resume: bool) -> None:
    if files.last.exists() and not resume:
        raise ConfigError(
            f"run: {files.folder} already holds a run; continue it with --resume or choose another folder"
        )


class Trainer:
    """The state of one run, and the loop that advances it."""

    def __init__(
        self,
        config: TrainConfig,
        files: RunFiles,
        fabric: Fabric,
        processes: Processes,
        console: Console | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.config = config
        self.files = files
        self.fabric = fabric
        self.processes = processes
        self.on_step = on_step or (lambda steps: None)
        data = load_split(config.data, config.data.train_split)
        initial = load_initial(config, files)
        self.tokenizer = make_tokenizer(config.data, data.captions) if initial is None else initial.tokenizer
        self.pairs = EncodedPairs(data, self.tokenizer)
        self.validation: EncodedPairs | None = None
        if config.data.validation_split is not None:
            split = load_split(config.data, config.data.validation_split)
            self.validation = EncodedPairs(split, self.tokenizer)
        self.batches = PairBatches(self.pairs.captions, config.batch_size, config.seed, config.accumulate)
        self.total_steps = config.epochs * self.batches.steps_per_epoch
        self.negatives = RunNegatives(config, files, self.pairs, processes) if needs_offline(config) else None
        self.inputs = {  # what a resumed run must find unchanged, besides its configuration
            "initial weights": "none" if initial is None else initial.fingerprint,  # None: no longer there
            "training set": fingerprint_data(data),
            "tokens": fingerprint_tokens(self.tokenizer, self.pairs.tokens, self.pairs.lengths),
            "validation set": fingerprint_data(self.validation.data) if self.validation else "none",
            "offline lists": self.negatives.given_fingerprint if self.negatives else "none",
        }

        torch.manual_seed(streams.torch_seed(config.seed, 0))
        self.model = build_model(config.model, len(self.tokenizer))
        if initial is not None:
            initial.give_to(self.model)
        self.update = Update(config, fabric, processes, self.model)
        self.feed = Feed(config, self.pairs, self.batches, processes, pin=fabric.device.type == "cuda")
        self.step = 0  # steps taken
        self.journal = Journal(config, files, console, processes.leads)
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=fabric.device)

    def phase(self, epoch: int) -> tuple[str, str]:
        """(objective, online) of ``epoch``, from 0.

        Warming up without offline terms gives every objective the same start, at the price of a plain step.
        """
        if epoch < self.config.warmup_epochs:
            return "online_triplet", "all"
        return self.config.loss.objective, "hardest"

    def fit(self) -> None:
        self.processes.by_leader("writing the configuration", self._write_start)
        with self.journal.open(self.step, self.total_steps), closing(self.feed):
            for epoch in range(len(self.journal.history.epochs), self.config.epochs):
                self._epoch(epoch)

    def _write_start(self) -> None:
        self.files.write_start(self.config, self.tokenizer)
        if self.step:  # the run may have been killed after its checkpoint and before this
            self.journal.history.save(self.files.history)

    def _epoch(self, epoch: int) -> None:
        objective = TrainingObjective(self.model, self.config.loss, *self.phase(epoch), self.processes)
        if (
            self.negatives is not None
            and epoch >= self.config.warmup_epochs
            and self.negatives.prepare(epoch, self.model, self.journal.progress)
        ):
            self._save()  # from here on, resuming finds the lists
        self.model.train()
        started = time.perf_counter()
        try:
            self._steps(epoch, objective)
        except DataError:  # between two steps; the other processes notice it at their next exchange
            if self.step and self.processes.leads and self._has_finite_weights():
                self._write()
            raise
        self._finish_epoch(epoch, objective, time.perf_counter() - started)

    def _steps(self, epoch: int, objective: TrainingObjective) -> None:
        config, progress = self.config, self.journal.progress
        sampler = self.negatives.sampler if self.negatives is not None else None
        measured = time.perf_counter()
        first_step = self.step - epoch * self.batches.steps_per_epoch
        for step in self.feed.epoch(epoch, first_step, objective.objective, sampler):
            lr = learning_rate(config.optimizer, step.number, self.total_steps)
            result = self.update(step, objective, lr, measured=(step.number + 1) % config.log_every == 0)
            self.step = step.number + 1
            self.epoch_loss += result.loss
            if result.measurement is not None:
                value = result.loss.item() / step.pairs
                now = time.perf_counter()
                rate, measured = config.log_every * step.pairs / (now - measured), now
                self.journal.step(self.step, epoch, value, lr, result.measurement, step.pairs // config.accumulate)
                progress.advance(value, rate)
            else:
                progress.advance()
            if self.step % config.checkpoint_every == 0:
                self._save()
            self.on_step(self.step)
            del step  # and its images, before the next are read

    def _finish_epoch(self, epoch: int, objective: TrainingObjective, seconds: float) -> None:
        loss = self.epoch_loss.item() / (self.batches.steps_per_epoch * self.batches.step_size)
        if not math.isfinite(loss):
            raise self.journal.diverged(f"the mean loss of epoch {epoch + 1} is {loss}")
        if not self._has_finite_weights():  # the last update's doing: no loss has seen them yet
            raise self.journal.diverged(f"the weights are not finite after step {self.step}")
        record: dict[str, Any] = {
            "epoch": epoch + 1,
            "step": self.step,
            "objective": objective.objective,
            "online": objective.online,
            "loss": loss,
            "seconds": seconds,
        }
        if self.negatives is not None and (mining := self.negatives.seconds(epoch)) is not None:
            record["mining"] = {"seconds": mining}
        if self.validation is not None:
            record["validation"] = evaluate(self.model, self.validation, processes=self.processes)
        self.epoch_loss.zero_()
        if self.journal.epoch(record):
            best = {"model": self.model.state_dict(), "epoch": epoch + 1, "step": self.step}
            self.processes.by_leader("writing the weights", lambda: save_checkpoint(self.files.best, best))
        self._save()

    def _has_finite_weights(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())

    def _save(self) -> None:
        """The state after ``self.step`` steps; the data order, the draws and the learning rate follow from it."""
        if not self._has_finite_weights():
            return  # keep the last finite state; the next measurement or the end of the epoch stops the run
        self.processes.by_leader("writing the checkpoint", self._write)

    def _write(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.update.optimizer.state_dict(),
            "step": self.step,
            "epoch_loss": self.epoch_loss.item(),
            **self.journal.state(),
            "config": to_dict(self.config),
            "inputs": self.inputs,
            "mined": self.negatives.mined if self.negatives is not None else None,
            "scaler": self.fabric.strategy.precision.state_dict(),  # of 16-mixed; else empty
        }
        save_checkpoint(self.files.last, state)
        self.journal.history.save(self.files.history)

    def _moved(self, name: str, state: dict[str, Any]) -> str:
        """Where an input was, if it is elsewhere now."""
        if name == "initial weights":
            return f" (init was {state['config']['init']}, is {self.config.init})"
        part, entry = ("offline", "lists") if name == "offline lists" else ("data", "root")
        before, now = (config[part][entry] for config in (state["config"], to_dict(self.config)))
        return "" if before == now else f" ({part}.{entry} was {before}, is {now})"

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where ``_save`` left off."""
        check_same_run(to_dict(self.config), state["config"])
        if self.inputs["initial weights"] is None:
            self.inputs["initial weights"] = state["inputs"]["initial weights"]
        for name, fingerprint in self.inputs.items():
            if fingerprint != state["inputs"].get(name, fingerprint):  # older checkpoints do not say all
                raise ConfigError(
                    f"run: the {name} of the run to resume changed since it was started{self._moved(name, state)}; "
                    f"name the one it was started with, or start a new run"
                )
        restore_model(self.model, state, self.files.last)
        self.update.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state.get("scaler", {}))
        self.step = state["step"]
        self.epoch_loss.fill_(state["epoch_loss"])
        self.journal.restore(state)
        if self.negatives is not None:
            self.negatives.mined = state.get("mined")
