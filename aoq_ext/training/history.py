"""What a run measured, as plain lists: kept in the checkpoint and in ``history.json``, which reports are made from.

``steps``: one entry per ``log_every`` steps: ``step`` (from 1, over the run), ``epoch`` (from 1), ``lr``, ``loss`` (per
pair) and everything that `diagnostics.measure` returns; ``loss/auxiliary``, where the model has a loss of its own.

``epochs``: one entry per epoch: ``epoch`` (from 1), ``step``, ``online`` ("all" or "hardest"), ``objective`` (of that
epoch), ``loss`` (mean per pair), ``seconds`` (of training alone), ``mining``, what mining before it took (``{"seconds":
...}``; absent where it drew from lists that were there), and ``validation``, the result of `retrieval_metrics` (absent
without a validation split).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aoq_ext._files import write_json


@dataclass
class History:
    steps: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    smoothing: int = 1  # epochs that a validation score is averaged over when epochs are compared

    def best_epoch(self) -> int:
        """The epoch (from 1) with the highest validation rsum, the first of equals; the last one without validation.

        The rsum of an epoch is averaged with those of the ``smoothing - 1`` epochs before it. On a small validation
        split the highest single value is mostly luck, and may pick weights that are half trained. Epochs of the warm-up
        are chosen only while there are no others: their weights never met the loss they would stand for.
        """
        if not self.epochs or "validation" not in self.epochs[0]:
            return len(self.epochs)
        rsums = [entry["validation"]["rsum"] for entry in self.epochs]
        windows = [rsums[max(0, last + 1 - self.smoothing) : last + 1] for last in range(len(rsums))]
        means = [sum(window) / len(window) for window in windows]
        trained = [n for n, entry in enumerate(self.epochs) if entry.get("online") != "all"] or range(len(means))
        return max(trained, key=lambda n: (means[n], -n)) + 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": 1,
            "best_epoch": self.best_epoch(),
            "smoothing": self.smoothing,
            "steps": self.steps,
            "epochs": self.epochs,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> History:
        return cls(list(state["steps"]), list(state["epochs"]), state["smoothing"])

    def save(self, path: str | Path) -> None:
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> History:
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
