"""The training loop."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from aoq_ext.data import Vocabulary
from aoq_ext.losses import AdaptiveQuintupletLoss
from aoq_ext.training import streams
from aoq_ext.training.batches import Batch, PairBatches
from aoq_ext.training.checkpoint import load_checkpoint, restore_model, save_checkpoint
from aoq_ext.training.collapse import CollapseDetector, CollapseError
from aoq_ext.training.config import ConfigError, TrainConfig, check, check_same_run, needs_offline, to_dict
from aoq_ext.training.diagnostics import StepEmbeddings, measure
from aoq_ext.training.evaluation import evaluate
from aoq_ext.training.history import History
from aoq_ext.training.mining import RunNegatives
from aoq_ext.training.model import build_model
from aoq_ext.training.offline import fingerprint_data
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.progress import TrainingProgress
from aoq_ext.training.run import RunFiles
from aoq_ext.training.schedule import learning_rate
from aoq_ext.training.step import embed_batch


class TrainingError(RuntimeError):
    """Training cannot go on."""


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

    Args:
        config: what to train, on what, and where to write.
        resume: continue from the run's last checkpoint, or start when there is none yet.
        console: where progress goes.
        on_step: called after each step with the number of steps taken so far.
    """
    check(config)
    files = RunFiles(config.run)
    _refuse_overwriting(files, resume)
    threads = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng():
            trainer = Trainer(config, files, console, on_step)
            with files.locked():
                _refuse_overwriting(files, resume)  # another process may have trained there meanwhile
                if files.last.exists():
                    trainer.restore(load_checkpoint(files.last))
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
        console: Console | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.config = config
        self.files = files
        self.console = console or Console()
        self.on_step = on_step or (lambda steps: None)
        data = load_split(config.data, config.data.train_split)
        self.vocabulary = Vocabulary.build(data.captions, min_count=config.data.min_count)
        self.pairs = EncodedPairs(data, self.vocabulary)
        self.validation: EncodedPairs | None = None
        if config.data.validation_split is not None:
            split = load_split(config.data, config.data.validation_split)
            self.validation = EncodedPairs(split, self.vocabulary)
        self.batches = PairBatches(self.pairs.captions, config.batch_size, config.seed)
        self.total_steps = config.epochs * self.batches.steps_per_epoch
        self.negatives = RunNegatives(config, files, self.pairs) if needs_offline(config) else None
        self.inputs = {  # what a resumed run must find unchanged, besides its configuration
            "training set": fingerprint_data(data),
            "offline lists": self.negatives.given_fingerprint if self.negatives else "none",
        }

        self.fabric = Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)
        torch.manual_seed(streams.torch_seed(config.seed, 0))
        self.model = build_model(config.model, len(self.vocabulary))
        optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay, fused=True
        )
        self.wrapped, self.optimizer = self.fabric.setup(self.model, optimizer)
        self.step = 0  # steps taken
        self.history = History(smoothing=config.data.smoothing)
        self.detector = CollapseDetector(config.loss.margin_online, config.collapse_patience)
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=self.fabric.device)

    def phase(self, epoch: int) -> tuple[str, str]:
        """(objective, online) of ``epoch``, from 0.

        Warming up without offline terms gives every objective the same start, at the price of a plain step.
        """
        if epoch < self.config.warmup_epochs:
            return "online_triplet", "all"
        return self.config.loss.objective, "hardest"

    def fit(self) -> None:
        config = self.config
        self.files.write_start(config, self.vocabulary)
        writer = SummaryWriter(str(self.files.tensorboard), purge_step=self.step + 1 if self.step else None)
        progress = TrainingProgress(self.files.folder.name, config.epochs, self.total_steps, self.step, self.console)
        try:
            with progress:
                for epoch in range(len(self.history.epochs), config.epochs):
                    self._epoch(epoch, writer, progress)
        finally:
            writer.close()

    def _epoch(self, epoch: int, writer: SummaryWriter, progress: TrainingProgress) -> None:
        objective, online = self.phase(epoch)
        options = self.config.loss
        loss_function = AdaptiveQuintupletLoss(
            margin_online=options.margin_online,
            margin_offline=options.margin_offline,
            alpha=options.alpha,
            beta=options.beta,
            objective=objective,
            online=online,
            detach_weight=options.detach_weight,
            clamp_weight=options.clamp_weight,
        )
        if (
            self.negatives is not None
            and objective != "online_triplet"
            and self.negatives.prepare(epoch, self.model, progress)
        ):
            self._save()  # from here on, resuming finds the lists
        self.model.train()
        started = measured = time.perf_counter()
        for batch in self.batches.epoch(epoch, first_step=self.step - epoch * self.batches.steps_per_epoch):
            lr = learning_rate(self.config.optimizer, batch.step, self.total_steps)
            loss, embeddings = self._step(batch, loss_function, objective, lr)
            self.step = batch.step + 1
            self.epoch_loss += loss
            if self.step % self.config.log_every == 0:
                value = loss.item() / len(batch.image)
                now = time.perf_counter()
                rate, measured = self.config.log_every * len(batch.image) / (now - measured), now
                measurement = measure(embeddings, options, objective, online)
                self._log(epoch, value, lr, measurement, len(batch.image), writer)
                progress.advance(value, rate)
            else:
                progress.advance()
            if self.step % self.config.checkpoint_every == 0:
                self._save()
            self.on_step(self.step)
        record = self._finish_epoch(epoch, objective, online, time.perf_counter() - started, writer)
        progress.epoch(record, best=self.history.best_epoch() == epoch + 1)

    def _step(
        self, batch: Batch, loss_function: AdaptiveQuintupletLoss, objective: str, lr: float
    ) -> tuple[Tensor, StepEmbeddings]:
        torch.manual_seed(streams.torch_seed(self.config.seed, 1 + batch.step))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        sampler = self.negatives.sampler if self.negatives is not None else None
        embeddings = embed_batch(self.wrapped, self.pairs, sampler, batch, objective, self.fabric.device)
        loss = loss_function(
            embeddings.image,
            embeddings.text,
            embeddings.hard_image,
            embeddings.hard_text,
            embeddings.hard_text_image,
            embeddings.hard_image_text,
            group_ids=embeddings.group_ids,
        )
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        self.fabric.clip_gradients(
            self.wrapped, self.optimizer, max_norm=self.config.optimizer.clip_norm, error_if_nonfinite=False
        )
        self.optimizer.step()
        return loss.detach(), embeddings

    def _log(
        self, epoch: int, loss: float, lr: float, measurement: dict[str, float], batch_size: int, writer: SummaryWriter
    ) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss} at step {self.step}")
        entry = {"loss": loss, "lr": lr, **measurement}
        for name, value in entry.items():
            writer.add_scalar("loss/total" if name == "loss" else name, value, self.step)
        self.history.steps.append({"step": self.step, "epoch": epoch + 1, **entry})
        if self.detector.update(measurement):
            message = self.detector.explain(
                self.step, measurement, batch_size, self.config.warmup_epochs, self.config.optimizer.lr
            )
            if self.config.on_collapse == "stop":
                self.history.save(self.files.history)
                raise CollapseError(message)
            warnings.warn(message, stacklevel=2)

    def _finish_epoch(
        self, epoch: int, objective: str, online: str, seconds: float, writer: SummaryWriter
    ) -> dict[str, Any]:
        loss = self.epoch_loss.item() / (self.batches.steps_per_epoch * self.batches.batch_size)
        if not math.isfinite(loss):
            raise self._diverged(f"the mean loss of epoch {epoch + 1} is {loss}")
        if not self._has_finite_weights():  # the last update's doing: no loss has seen them yet
            raise self._diverged(f"the weights are not finite after step {self.step}")
        record: dict[str, Any] = {
            "epoch": epoch + 1,
            "step": self.step,
            "objective": objective,
            "online": online,
            "loss": loss,
            "seconds": seconds,
        }
        if self.negatives is not None and (mining := self.negatives.seconds(epoch)) is not None:
            record["mining"] = {"seconds": mining}
        if self.validation is not None:
            record["validation"] = evaluate(self.model, self.validation)
            for name, value in record["validation"].items():
                writer.add_scalar(f"validation/{name}", value, self.step)
        self.history.epochs.append(record)
        self.epoch_loss.zero_()
        writer.flush()
        if self.history.best_epoch() == epoch + 1:
            save_checkpoint(self.files.best, {"model": self.model.state_dict(), "epoch": epoch + 1, "step": self.step})
        self._save()
        return record

    def _diverged(self, what: str) -> TrainingError:
        kept = f"; the last finite state is in {self.files.last}" if self.files.last.exists() else ""
        return TrainingError(
            f"{what}{kept}. Lower optimizer.lr (now {self.config.optimizer.lr:g}) or look for bad input"
        )

    def _has_finite_weights(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())

    def _save(self) -> None:
        """The state after ``self.step`` steps; the data order, the draws and the learning rate follow from it."""
        if not self._has_finite_weights():
            return  # keep the last finite state; the next measurement or the end of the epoch stops the run
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch_loss": self.epoch_loss.item(),
            "collapse_count": self.detector.count,
            "history": self.history.to_dict(),
            "config": to_dict(self.config),
            "inputs": self.inputs,
            "mined": self.negatives.mined if self.negatives is not None else None,
        }
        save_checkpoint(self.files.last, state)
        self.history.save(self.files.history)

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where ``_save`` left off."""
        check_same_run(to_dict(self.config), state["config"])
        for name, fingerprint in self.inputs.items():
            if fingerprint != state["inputs"][name]:
                raise ConfigError(f"run: the {name} of the run to resume changed since it was started; start a new run")
        restore_model(self.model, state, self.files.last)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.epoch_loss.fill_(state["epoch_loss"])
        self.detector.count = state["collapse_count"]
        self.history = History.from_dict(state["history"])
        if self.negatives is not None:
            self.negatives.mined = state.get("mined")
