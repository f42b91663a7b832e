"""What a run notes about itself while it trains: its history, TensorBoard, the terminal, and whether it collapsed."""

from __future__ import annotations

import math
import warnings
from typing import Any

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from aoq_ext.training.collapse import CollapseDetector, CollapseError
from aoq_ext.training.config import TrainConfig
from aoq_ext.training.history import History
from aoq_ext.training.progress import TrainingProgress
from aoq_ext.training.run import RunFiles

_EXPECTED_HARDER = 0.6


class TrainingError(RuntimeError):
    """Training cannot go on."""


class Journal:
    """Use as a context manager around the loop. Every process keeps the history; only the leading one shows and writes.

    Args:
        leads: whether this process does.
    """

    def __init__(self, config: TrainConfig, files: RunFiles, console: Console | None, leads: bool) -> None:
        self.config = config
        self.files = files
        self.leads = leads
        self.console = (console or Console()) if leads else Console(quiet=True)
        self.history = History(smoothing=config.data.smoothing)
        loss = config.loss
        attached = loss.objective == "adaptive_quintuplet" and not loss.detach_weight
        self.detector = CollapseDetector(
            loss.margin_online, config.collapse_patience, beta=loss.beta if attached else None
        )
        self.progress: TrainingProgress
        self._writer: SummaryWriter | None = None

    def open(self, steps: int, total_steps: int) -> Journal:
        """``steps`` of ``total_steps`` were taken before this process started."""
        if self.leads:
            self._writer = SummaryWriter(str(self.files.tensorboard), purge_step=steps + 1 if steps else None)
        self.progress = TrainingProgress(self.files.folder.name, self.config.epochs, total_steps, steps, self.console)
        return self

    def __enter__(self) -> Journal:
        self.progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.progress.__exit__(*error)
        if self._writer is not None:
            self._writer.close()

    def step(
        self, step: int, epoch: int, loss: float, lr: float, measurement: dict[str, float], batch_size: int
    ) -> None:
        """One measured step; ``loss`` per pair."""
        if not math.isfinite(loss):
            raise self.diverged(f"the loss is {loss} at step {step}")
        entry = {"loss": loss, "lr": lr, **measurement}
        for name, value in entry.items():
            self._scalar("loss/total" if name == "loss" else name, value, step)
        self.history.steps.append({"step": step, "epoch": epoch + 1, **entry})
        if self.detector.update(measurement):
            message = self.detector.explain(
                step, measurement, batch_size, self.config.warmup_epochs, self.config.optimizer.lr
            )
            if self.config.on_collapse == "stop":
                if self.leads:
                    self.history.save(self.files.history)
                raise CollapseError(message)
            if self.leads:
                warnings.warn(message, stacklevel=2)

    def epoch(self, record: dict[str, Any]) -> bool:
        """One finished epoch, as in `history`; returns whether its weights are the best so far."""
        for name, value in record.get("validation", {}).items():
            self._scalar(f"validation/{name}", value, record["step"])
        self._warn_of_easy_negatives(record)
        self.history.epochs.append(record)
        if self._writer is not None:
            self._writer.flush()
        best = self.history.best_epoch() == len(self.history.epochs)
        self.progress.epoch(record, best=best)
        return best

    def _warn_of_easy_negatives(self, record: dict[str, Any]) -> None:
        """After the first epoch with offline terms, where its draws were seldom harder than what a batch has anyway."""
        if self.config.offline.batch_share > 0:
            return  # its batches are harder on purpose
        if not self.leads or any(entry["objective"] != "online_triplet" for entry in self.history.epochs):
            return
        shares = [
            entry["harder"] for entry in self.history.steps if entry["epoch"] == record["epoch"] and "harder" in entry
        ]
        if shares and (share := sum(shares) / len(shares)) < _EXPECTED_HARDER:
            offline = self.config.offline
            warnings.warn(
                f"only {share:.1%} of the offline negatives drawn in epoch {record['epoch']} were harder than the "
                f"hardest of their batch (`harder` in the history), expected {_EXPECTED_HARDER:.0%} or more: the "
                f"others teach less than the batch does. Cure: shorter lists, offline.top_texts / top_images, now "
                f"{offline.top_texts} / {offline.top_images}",
                stacklevel=2,
            )

    def diverged(self, what: str) -> TrainingError:
        kept = f"; the last finite state is in {self.files.last}" if self.files.last.exists() else ""
        return TrainingError(
            f"{what}{kept}. Lower optimizer.lr (now {self.config.optimizer.lr:g}) or look for bad input"
        )

    def state(self) -> dict[str, Any]:
        counts = {"collapse_count": self.detector.count, "collapse_weight": self.detector.weight}
        return {**counts, "history": self.history.to_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.detector.count = state["collapse_count"]
        self.detector.weight = state.get("collapse_weight")  # older checkpoints do not say it
        self.history = History.from_dict(state["history"])

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)
