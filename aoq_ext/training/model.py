"""The model as training sees it: two encoders into one space, or one that scores pairs; built from a configuration."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from aoq_ext.encoders.matching import Features as MatchingFeatures
from aoq_ext.encoders.matching import MatchingModel
from aoq_ext.training.components import build_encoder
from aoq_ext.training.config import ConfigError, ModelConfig
from aoq_ext.training.features import Features


class Model(nn.Module):
    """What encodes images and texts.

    Images may come as uint8, as the data sets store them: they are scaled to [-1, 1] here, and only here,
    so that training, validation and mining cannot disagree. Floating-point inputs (region features) pass untouched.

    Args:
        backbone: what makes region features of images, trained with the rest; None: images are encoded as they come.
    """

    def __init__(self, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    @abstractmethod
    def embeds(self) -> bool:
        """Whether features are vectors, whose products are the scores."""

    def scores(self, images: Features, texts: Features) -> Tensor:
        """Features of N images and of M texts -> (N, M)"""
        return images @ texts.T  # type: ignore[no-any-return]

    @abstractmethod
    def encode_images(self, images: Tensor) -> Features:
        """images: (P, ...), uint8 or floating point -> features of P rows"""

    @abstractmethod
    def encode_texts(self, tokens: Tensor, lengths: Tensor) -> Features:
        """tokens: (Q, L); lengths: (Q,) -> features of Q rows"""

    def prepare_images(self, images: Tensor) -> Tensor:
        """images: (P, ...), uint8 or floating point -> what the image encoder takes"""
        if images.dtype == torch.uint8:
            images = images.float().mul_(2 / 255).sub_(1)
        return images if self.backbone is None else self.backbone(images)

    def forward(self, images: Tensor, tokens: Tensor, lengths: Tensor) -> tuple[Features, Features]:
        """images: (P, ...); tokens: (Q, L); lengths: (Q,)"""
        return self.encode_images(images), self.encode_texts(tokens, lengths)

    def with_auxiliary(
        self, images: Tensor, tokens: Tensor, lengths: Tensor, pairs: int
    ) -> tuple[Features, Features, Tensor | None]:
        """`forward`, and the mean of the model's own loss, if it has one, over the first ``pairs`` rows."""
        return *self(images, tokens, lengths), None


class DualEncoder(Model):
    """An image encoder and a text encoder into one space, where a score is a dot product.

    Args:
        auxiliary: a loss of an image's regions and its caption, called with ``regions, tokens, lengths``, its mean over
            the pairs; the image encoder then has ``encode(images) -> embeddings, regions`` (`aoq_ext.encoders`:
            CaptioningLoss and VSRNEncoder).
    """

    embeds = True

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        auxiliary: nn.Module | None = None,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__(backbone)
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.auxiliary = auxiliary

    def forward(self, images: Tensor, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """images: (P, ...); tokens: (Q, L); lengths: (Q,) -> (P, D), (Q, D)"""
        return _same_width(self.encode_images(images), self.encode_texts(tokens, lengths))

    def with_auxiliary(
        self, images: Tensor, tokens: Tensor, lengths: Tensor, pairs: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.auxiliary is None or pairs == 0:
            return *self(images, tokens, lengths), None
        image, regions = self.image_encoder.encode(self.prepare_images(images))  # type: ignore[operator]
        image = _checked(image, len(images), "model.image_encoder")
        text = self.encode_texts(tokens, lengths)
        return *_same_width(image, text), self.auxiliary(regions[:pairs], tokens[:pairs], lengths[:pairs])

    def encode_images(self, images: Tensor) -> Tensor:
        """-> (P, D)"""
        return _checked(self.image_encoder(self.prepare_images(images)), len(images), "model.image_encoder")

    def encode_texts(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """-> (Q, D)"""
        return _checked(self.text_encoder(tokens, lengths), len(tokens), "model.text_encoder")


class ScoringModel(Model):
    """A `MatchingModel` whose scores are no dot products, such as SCAN and BFAN.

    Encoders run under autocast; scores are made outside of it, of float32 features.
    """

    embeds = False

    def __init__(self, matching: MatchingModel, backbone: nn.Module | None = None) -> None:
        super().__init__(backbone)
        self.matching = matching

    def encode_images(self, images: Tensor) -> MatchingFeatures:
        return self.matching.encode_images(self.prepare_images(images))

    def encode_texts(self, tokens: Tensor, lengths: Tensor) -> MatchingFeatures:
        return self.matching.encode_texts(tokens, lengths)

    def scores(self, images: MatchingFeatures, texts: MatchingFeatures) -> Tensor:
        """Features of N images and of M texts -> (N, M)"""
        return _checked_scores(self.matching.scores(images, texts), (len(images), len(texts)), "scores")

    def pair_scores(self, images: MatchingFeatures, texts: MatchingFeatures) -> Tensor:
        """Features of B images and of B texts -> (B,)"""
        return _checked_scores(self.matching.pair_scores(images, texts), (len(images),), "pair_scores")


def build_model(config: ModelConfig, vocabulary_size: int) -> DualEncoder | ScoringModel:
    """``config.matching`` where it is given: whole if it matches by scores, else its two encoders."""
    backbone = None if config.backbone is None else build_encoder(config.backbone, "model.backbone")
    auxiliary = None
    if config.auxiliary is not None:
        auxiliary = build_encoder(config.auxiliary, "model.auxiliary", vocabulary_size=vocabulary_size)
    if config.matching is None:
        image = build_encoder(config.image_encoder, "model.image_encoder")
        text = build_encoder(config.text_encoder, "model.text_encoder", vocabulary_size=vocabulary_size)
    else:
        matching = build_encoder(config.matching, "model.matching", vocabulary_size=vocabulary_size)
        if not isinstance(matching, MatchingModel):
            raise ConfigError(
                f"model.matching.factory: expected an aoq_ext.encoders.MatchingModel, got {type(matching).__name__} "
                f"from {config.matching.factory}"
            )
        if matching.matches_by == "score":
            if auxiliary is not None:
                raise ConfigError("model.auxiliary: expected null with a model that matches by scores")
            return ScoringModel(matching, backbone)
        image, text = matching.image_encoder, matching.text_encoder
    if auxiliary is not None and not callable(getattr(image, "encode", None)):
        raise ConfigError(
            f"model.auxiliary: expected an image encoder with encode(images) -> embeddings, regions, "
            f"got {type(image).__name__} without it"
        )
    return DualEncoder(image, text, auxiliary, backbone)


def _same_width(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    if image.shape[1] != text.shape[1]:
        raise ConfigError(
            f"model.text_encoder: expected embeddings as wide as those of model.image_encoder, "
            f"{image.shape[1]}, got {text.shape[1]}"
        )
    return image, text


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


def _checked_scores(scores: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    if scores.shape != shape or not scores.is_floating_point():
        raise ConfigError(
            f"model.matching: expected {name} to return floating-point numbers of shape {shape}, "
            f"got {scores.dtype} of shape {tuple(scores.shape)}"
        )
    return scores
