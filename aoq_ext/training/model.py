"""The model as training sees it: two encoders into one space, or one that scores pairs; built from a configuration."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from aoq_ext.training.components import build_encoder
from aoq_ext.training.config import ConfigError, ModelConfig
from aoq_ext.training.features import Features, leaves


class Model(nn.Module):
    """What encodes images and texts.

    Images may come as uint8, as the data sets store them: they are scaled to [-1, 1] here, and only here,
    so that training, validation and mining cannot disagree. Floating-point inputs (region features) pass untouched.
    """

    has_auxiliary_loss = False

    @abstractmethod
    def encode_images(self, images: Tensor) -> Features:
        """images: (P, ...), uint8 or floating point -> features of P rows"""

    @abstractmethod
    def encode_texts(self, tokens: Tensor, lengths: Tensor) -> Features:
        """tokens: (Q, L); lengths: (Q,) -> features of Q rows"""

    def auxiliary_loss(self, image_features: Features, tokens: Tensor, lengths: Tensor) -> Tensor:
        """A loss of the model's own, summed over these pairs -> ()"""
        raise NotImplementedError

    def forward(self, images: Tensor, tokens: Tensor, lengths: Tensor) -> tuple[Features, Features]:
        """images: (P, ...); tokens: (Q, L); lengths: (Q,)"""
        return self.encode_images(images), self.encode_texts(tokens, lengths)


class DualEncoder(Model):
    """An image encoder and a text encoder into one space, where a score is a dot product."""

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
        """-> (P, D)"""
        return _checked(self.image_encoder(_scaled(images)), len(images), "model.image_encoder")

    def encode_texts(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """-> (Q, D)"""
        return _checked(self.text_encoder(tokens, lengths), len(tokens), "model.text_encoder")


def _scaled(images: Tensor) -> Tensor:
    return images.float().mul_(2 / 255).sub_(1) if images.dtype == torch.uint8 else images


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


class JointModel(Model):
    """A model that brings its own way to encode both sides, under ``model.matching``.

    It has ``encode_images(images)`` and ``encode_texts(tokens, lengths)``, and may have
    ``auxiliary_loss(image_features, tokens, lengths)``, a loss of its own summed over these pairs.
    """

    def __init__(self, matching: nn.Module) -> None:
        super().__init__()
        self.matching: Any = matching

    @property
    def has_auxiliary_loss(self) -> bool:  # type: ignore[override]
        return hasattr(self.matching, "auxiliary_loss")

    def encode_images(self, images: Tensor) -> Features:
        return self.matching.encode_images(_scaled(images))

    def encode_texts(self, tokens: Tensor, lengths: Tensor) -> Features:
        return self.matching.encode_texts(tokens, lengths)

    def auxiliary_loss(self, image_features: Features, tokens: Tensor, lengths: Tensor) -> Tensor:
        loss: Tensor = self.matching.auxiliary_loss(image_features, tokens, lengths)
        return loss


class ScoringModel(JointModel):
    """A model whose score of a pair is no dot product, such as SCAN and BFAN."""

    def scores(self, image_features: Features, text_features: Features) -> Tensor:
        """Features of N images and of M texts -> (N, M)"""
        scores: Tensor = self.matching.scores(image_features, text_features)
        expected = len(leaves(image_features)[0]), len(leaves(text_features)[0])
        return _checked_scores(scores, expected, "scores")

    def pair_scores(self, image_features: Features, text_features: Features) -> Tensor:
        """Features of B images and of B texts -> (B,)"""
        scores: Tensor = self.matching.pair_scores(image_features, text_features)
        return _checked_scores(scores, (len(leaves(image_features)[0]),), "pair_scores")


def _checked_scores(scores: object, shape: tuple[int, ...], name: str) -> Tensor:
    if not isinstance(scores, Tensor) or scores.shape != shape or not scores.is_floating_point():
        got = f"{scores.dtype} of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ConfigError(
            f"model.matching: expected {name} to return floating-point scores of shape {shape}, got {got}"
        )
    return scores


def build_model(config: ModelConfig, vocabulary_size: int) -> DualEncoder | ScoringModel:
    if config.matching is None:
        return DualEncoder(
            build_encoder(config.image_encoder, "model.image_encoder"),
            build_encoder(config.text_encoder, "model.text_encoder", vocabulary_size=vocabulary_size),
        )
    return ScoringModel(build_encoder(config.matching, "model.matching", vocabulary_size=vocabulary_size))
