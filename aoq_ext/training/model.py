"""The two encoders as one module, and embedding a whole data set with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from aoq_ext.training.components import build_encoder
from aoq_ext.training.config import ConfigError, ModelConfig


class DualEncoder(nn.Module):
    """An image encoder and a text encoder into one space.

    Images may come as uint8, as the data sets store them: they are scaled to [-1, 1] here, and only here,
    so that training, validation and mining cannot disagree. Floating-point inputs (region features) pass untouched.
    """

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder

    def forward(self, images: Tensor, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """images: (P, ...); tokens: (Q, L); lengths: (Q,) -> (P, D), (Q, D)"""
        image, text = self.encode_images(images), self.encode_texts(tokens, lengths)
        if image.shape[1] != text.shape[1]:
            raise ConfigError(
                f"model.text_encoder: expected embeddings as wide as those of model.image_encoder, "
                f"{image.shape[1]}, got {text.shape[1]}"
            )
        return image, text

    def encode_images(self, images: Tensor) -> Tensor:
        """images: (P, ...), uint8 or floating point -> (P, D)"""
        if images.dtype == torch.uint8:
            images = images.float().mul_(2 / 255).sub_(1)
        return _checked(self.image_encoder(images), len(images), "model.image_encoder")

    def encode_texts(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens: (Q, L); lengths: (Q,) -> (Q, D)"""
        return _checked(self.text_encoder(tokens, lengths), len(tokens), "model.text_encoder")


def _checked(embeddings: object, rows: int, name: str) -> Tensor:
    """-> (rows, D): what the encoder ``name`` returned, if that is what it is"""
    if not isinstance(embeddings, Tensor):
        raise ConfigError(f"{name}: expected an encoder that returns a tensor, got {type(embeddings).__name__}")
    if embeddings.dim() != 2 or len(embeddings) != rows or not embeddings.is_floating_point():
        raise ConfigError(
            f"{name}: expected floating-point embeddings of shape ({rows}, D), "
            f"got {embeddings.dtype} of shape {tuple(embeddings.shape)}"
        )
    return embeddings


def build_model(config: ModelConfig, vocabulary_size: int) -> DualEncoder:
    return DualEncoder(
        build_encoder(config.image_encoder, "model.image_encoder"),
        build_encoder(config.text_encoder, "model.text_encoder", vocabulary_size=vocabulary_size),
    )


@torch.no_grad()
def embed_images(model: DualEncoder, images: np.ndarray, batch_size: int = 512) -> Tensor:
    """images: (N, ...), possibly a memory map -> (N, D) float32, on its device, the model in evaluation mode."""
    device = next(model.parameters()).device
    with _evaluating(model):
        parts = [
            model.encode_images(torch.from_numpy(np.array(images[first : first + batch_size])).to(device)).float()
            for first in range(0, len(images), batch_size)
        ]
    return torch.cat(parts)


@torch.no_grad()
def embed_texts(model: DualEncoder, tokens: Tensor, lengths: Tensor, batch_size: int = 2048) -> Tensor:
    """tokens: (M, L); lengths: (M,) -> (M, D) float32, on its device, the model in evaluation mode."""
    device = next(model.parameters()).device
    with _evaluating(model):
        parts = [
            model.encode_texts(part[:, : int(length.max())].to(device), length.to(device)).float()
            for part, length in zip(tokens.split(batch_size), lengths.split(batch_size), strict=True)
        ]
    return torch.cat(parts)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
