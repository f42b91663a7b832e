"""The model as training sees it: a `MatchingModel` with what surrounds it; built from a configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aoq_ext.encoders.model import EmbeddingModel, Features, MatchingModel
from aoq_ext.training.components import build_encoder
from aoq_ext.training.config import ConfigError, ModelConfig


class Model(MatchingModel):
    """A matching model, a backbone under its image encoder, and a loss beside the matching.

    Images may come as uint8, as the data sets store them: they are scaled to [-1, 1] here, and only here,
    so that training, validation and mining cannot disagree. Floating-point inputs (region features) pass untouched.

    Encoders run under autocast; scores are made outside of it, of float32 features. What encoders and scores are is
    checked here, too.

    Args:
        matching: encodes, and says what a score is.
        auxiliary: a loss of an image's regions (`MatchingModel.encode_regions`) and its caption, called with
            ``regions, tokens, lengths``, its mean over the pairs (`aoq_ext.encoders.CaptioningLoss`).
        backbone: what makes region features of images, trained with the rest; None: images are encoded as they come.
    """

    def __init__(
        self, matching: MatchingModel, auxiliary: nn.Module | None = None, backbone: nn.Module | None = None
    ) -> None:
        nn.Module.__init__(self)  # the encoders are those of ``matching``
        self.matches_by = matching.matches_by
        self.backbone = backbone
        self.matching = matching
        self.auxiliary = auxiliary
        if self.embeds:
            self.register_state_dict_post_hook(_name_as_in_checkpoints)
            self.register_load_state_dict_pre_hook(_name_as_in_model)

    def prepare_images(self, images: Tensor) -> Tensor:
        """images: (P, ...), uint8 or floating point -> what the image encoder takes"""
        if images.dtype == torch.uint8:
            images = images.float().mul_(2 / 255).sub_(1)
        return images if self.backbone is None else self.backbone(images)

    def encode_images(self, images: Tensor, lengths: Tensor | None = None) -> Features:
        """images: (P, ...), uint8 or floating point"""
        return self._checked(self.matching.encode_images(self.prepare_images(images), lengths), len(images), "image")

    def encode_texts(self, tokens: Tensor, lengths: Tensor) -> Features:
        return self._checked(self.matching.encode_texts(tokens, lengths), len(tokens), "text")

    def encode_regions(self, images: Tensor, lengths: Tensor | None = None) -> tuple[Features, Features]:
        features, regions = self.matching.encode_regions(self.prepare_images(images), lengths)
        return self._checked(features, len(images), "image"), regions

    def forward(
        self,
        images: Tensor,  # (P, ...)
        tokens: Tensor,  # (P, L)
        lengths: Tensor,  # (P,)
        pairs: int = 0,
    ) -> tuple[Features, Features, Tensor | None]:
        """Both sides, and the mean of the loss beside the matching, if there is one, over the first ``pairs`` rows."""
        if self.auxiliary is None or pairs == 0:
            image, auxiliary = self.encode_images(images), None
            text = self.encode_texts(tokens, lengths)
        else:
            image, regions = self.encode_regions(images)
            text = self.encode_texts(tokens, lengths)
            regions = regions.rows(slice(0, pairs))
            sizes = [] if regions.lengths is None else [regions.lengths]
            auxiliary = self.auxiliary(regions.values, tokens[:pairs], lengths[:pairs], *sizes)
        if self.embeds and image.values.shape[1] != text.values.shape[1]:
            raise ConfigError(
                f"model.text_encoder: expected embeddings as wide as those of model.image_encoder, "
                f"{image.values.shape[1]}, got {text.values.shape[1]}"
            )
        return image, text, auxiliary

    def scores(self, images: Features, texts: Features) -> Tensor:
        return _checked_scores(self.matching.scores(images, texts), (len(images), len(texts)), "scores")

    def pair_scores(self, images: Features, texts: Features) -> Tensor:
        return _checked_scores(self.matching.pair_scores(images, texts), (len(images),), "pair_scores")

    def _checked(self, features: Features, rows: int, side: str) -> Features:
        """What an encoder returned, where vectors are expected of it."""
        if not self.embeds:
            return features
        name, values = f"model.{side}_encoder", features.values
        if not isinstance(values, Tensor):
            raise ConfigError(f"{name}: expected an encoder that returns a tensor, got {type(values).__name__}")
        if values.dim() != 2 or len(values) != rows or not values.is_floating_point():
            raise ConfigError(
                f"{name}: expected floating-point embeddings of shape ({rows}, D), "
                f"got {values.dtype} of shape {tuple(values.shape)}"
            )
        return features


def build_model(config: ModelConfig, vocabulary_size: int) -> Model:
    """``config.matching`` where it is given, else the two encoders, matched by products."""
    backbone = None if config.backbone is None else build_encoder(config.backbone, "model.backbone")
    auxiliary = None
    if config.auxiliary is not None:
        auxiliary = build_encoder(config.auxiliary, "model.auxiliary", vocabulary_size=vocabulary_size)
    if config.matching is None:
        image = build_encoder(config.image_encoder, "model.image_encoder")
        text = build_encoder(config.text_encoder, "model.text_encoder", vocabulary_size=vocabulary_size)
        matching: MatchingModel = EmbeddingModel(image, text)
    else:
        built = build_encoder(config.matching, "model.matching", vocabulary_size=vocabulary_size)
        if not isinstance(built, MatchingModel):
            raise ConfigError(
                f"model.matching.factory: expected an aoq_ext.encoders.MatchingModel, got {type(built).__name__} "
                f"from {config.matching.factory}"
            )
        matching = built
    if auxiliary is not None and matching.embeds and not callable(getattr(matching.image_encoder, "encode", None)):
        raise ConfigError(
            f"model.auxiliary: expected an image encoder with encode(images) -> embeddings, regions, "
            f"got {type(matching.image_encoder).__name__} without it"
        )
    return Model(matching, auxiliary, backbone)


_ENCODERS = ("image_encoder.", "text_encoder.")


def _name_as_in_checkpoints(model: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Encoders of embeddings are named without what holds them; the order stays."""
    for name in list(state):
        short = name.removeprefix(f"{prefix}matching.")
        state[prefix + short if short.startswith(_ENCODERS) else name] = state.pop(name)


def _name_as_in_model(model: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for name in list(state):
        if (short := name.removeprefix(prefix)).startswith(_ENCODERS):
            state[f"{prefix}matching.{short}"] = state.pop(name)


def _checked_scores(scores: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    if scores.shape != shape or not scores.is_floating_point():
        raise ConfigError(
            f"model.matching: expected {name} to return floating-point numbers of shape {shape}, "
            f"got {scores.dtype} of shape {tuple(scores.shape)}"
        )
    return scores
