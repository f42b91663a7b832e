"""A finished run, ready to embed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from aoq_ext._files import expanded
from aoq_ext.data import Tokenizer
from aoq_ext.training.checkpoint import load_checkpoint, restore_model
from aoq_ext.training.config import ConfigError, TrainConfig
from aoq_ext.training.defaults import torch_defaults
from aoq_ext.training.encode import encode_images, encode_texts
from aoq_ext.training.model import Model, build_model
from aoq_ext.training.parse import load_config
from aoq_ext.training.run import RunFiles
from aoq_ext.training.tokens import encode_captions, load_tokenizer


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with the vocabulary and the configuration it was trained with."""

    folder: Path
    which: str
    epoch: int  # of the weights, from 1
    model: Model
    vocabulary: Tokenizer
    config: TrainConfig

    def embed_images(self, images: np.ndarray, batch_size: int = 512) -> Tensor:
        """images: (N, ...), as the data set stores them -> (N, D) float32"""
        return encode_images(self._embedder(), images, batch_size).values

    def embed_texts(self, captions: Sequence[str], batch_size: int = 2048) -> Tensor:
        """M captions -> (M, D) float32"""
        return encode_texts(self._embedder(), *encode_captions(self.vocabulary, captions), batch_size).values

    def _embedder(self) -> Model:
        if not self.model.embeds:
            raise ConfigError(
                f"run: expected a model that matches by embeddings, got one that matches by scores in {self.folder}"
            )
        return self.model


@torch_defaults()
def load_run(
    run: str | Path,
    which: Literal["best", "last"] = "best",
    device: str | torch.device = "cpu",
    root: str | Path | None = None,
) -> LoadedRun:
    """The model of the run in folder ``run``, with its best or its last weights, in evaluation mode.

    root: where its data is now, if not where it was in training.
    """
    files = RunFiles(run)
    if not files.config.is_file():
        raise ConfigError(f"run: expected the folder of a training run, but {files.config} is missing")
    config = load_config(files.config)
    if root is not None:
        config.data.root = str(expanded(root))
    vocabulary = load_tokenizer(config.data, files)
    path = files.best if which == "best" else files.last
    state = load_checkpoint(path)
    with torch.random.fork_rng():
        model = build_model(config.model, len(vocabulary))
    restore_model(model, state, path)
    epoch = state["epoch"] if which == "best" else len(state["history"]["epochs"])
    return LoadedRun(files.folder, which, epoch, model.to(device).eval(), vocabulary, config)
