"""Weights of another run that a new one starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from aoq_ext.data import Tokenizer
from aoq_ext.training.checkpoint import CheckpointError, load_checkpoint, restore_model
from aoq_ext.training.config import Component, ConfigError, ModelConfig, TrainConfig
from aoq_ext.training.model import Model
from aoq_ext.training.offline import fingerprint_weights
from aoq_ext.training.parse import load_config
from aoq_ext.training.run import RunFiles
from aoq_ext.training.tokens import load_tokenizer


@dataclass(frozen=True)
class InitialWeights:
    """The best weights of the run in ``init``, and the tokenizer that gives its token numbers their meaning.

    Once the new run has a checkpoint it needs no other folder: ``weights`` are None where ``init`` is gone, and the
    vocabulary is the one that the new run kept.
    """

    path: Path
    tokenizer: Tokenizer
    weights: dict[str, Tensor] | None

    @property
    def fingerprint(self) -> str | None:
        return None if self.weights is None else fingerprint_weights(self.weights)

    def give_to(self, model: Model) -> None:
        """Before the first step; ConfigError when they do not fit."""
        if self.weights is None:
            return
        try:
            restore_model(model, {"model": self.weights}, self.path)
        except CheckpointError as error:
            raise ConfigError(f"init: expected a run whose weights fit the model entries, got {error}") from error


def load_initial(config: TrainConfig, files: RunFiles) -> InitialWeights | None:
    """What ``config.init`` names; None where a run starts from random weights. ``files``: those of the new run."""
    if config.init is None:
        return None
    origin = RunFiles(config.init)
    missing = [path for path in (origin.config, origin.best) if not path.is_file()]
    if missing and files.last.is_file():
        return InitialWeights(origin.best, load_tokenizer(config.data, files), None)
    if missing:
        raise ConfigError(f"init: expected the folder of a training run, but {missing[0]} is missing")
    trained = load_config(origin.config)
    _check_same("data.tokenizer", trained.data.tokenizer, config.data.tokenizer, origin)
    for name, before in _factories(trained.model).items():
        _check_same(f"model.{name}", before, _factories(config.model)[name], origin)
    try:
        weights: dict[str, Tensor] = load_checkpoint(origin.best)["model"]
        return InitialWeights(origin.best, load_tokenizer(trained.data, origin), weights)
    except CheckpointError as error:
        raise ConfigError(f"init: {error}") from error


def _factories(model: ModelConfig) -> dict[str, str | None]:
    """Of the parts that are built. Their arguments may differ (dropout, say) where the weights still fit."""
    parts: dict[str, Component | None] = {name: getattr(model, name) for name in ("matching", "backbone", "auxiliary")}
    encoders = {"image_encoder": model.image_encoder, "text_encoder": model.text_encoder}
    parts |= {name: encoder if model.matching is None else None for name, encoder in encoders.items()}
    return {name: None if part is None else part.factory for name, part in parts.items()}


def _check_same(name: str, expected: Any, got: Any, origin: RunFiles) -> None:
    if got != expected:
        raise ConfigError(f"init: expected {name} as in {origin.folder}, {expected!r}, got {got!r}")
