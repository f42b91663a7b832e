"""How a model matches: by dot products of embeddings, or by a score of features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from aoq_ext.encoders.cross_attention import CrossAttention


@dataclass(frozen=True)
class Features:
    """What an encoder made of N images or texts: a vector each, or a padded sequence of them."""

    values: Tensor  # (N, D), or (N, F, D)
    lengths: Tensor | None = None  # (N,); None: no padding

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, index: Tensor | slice) -> Features:
        return Features(self.values[index], None if self.lengths is None else self.lengths[index])

    def split(self, sizes: int | list[int]) -> list[Features]:
        values = self.values.split(sizes)
        lengths = [None] * len(values) if self.lengths is None else self.lengths.split(sizes)
        return [Features(*part) for part in zip(values, lengths, strict=True)]

    def to(self, device: torch.device | str) -> Features:
        return Features(self.values.to(device), None if self.lengths is None else self.lengths.to(device))


class MatchingModel(nn.Module, ABC):
    """Two encoders and what makes scores of their features.

    ``matches_by`` says which loss and which mining suit it: ``"embedding"`` (a score is a dot product of two vectors:
    `AdaptiveQuintupletLoss` on ``values``, whose kernels never write the score matrix) or ``"score"``
    (`AdaptiveQuintupletScoreLoss` on what `quintuplet_scores` returns).
    """

    matches_by: ClassVar[Literal["embedding", "score"]]

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder

    def encode_images(self, images: Tensor, lengths: Tensor | None = None) -> Features:
        """images: (N, ...), floating point; lengths: (N,), of images with differing numbers of regions"""
        values = self.image_encoder(images) if lengths is None else self.image_encoder(images, lengths)
        return Features(values, lengths if values.dim() == 3 else None)

    def encode_texts(self, tokens: Tensor, lengths: Tensor) -> Features:
        """tokens: (M, L) integers; lengths: (M,)"""
        values = self.text_encoder(tokens, lengths)
        return Features(values, lengths if values.dim() == 3 else None)

    @abstractmethod
    def scores(self, images: Features, texts: Features) -> Tensor:
        """The score of every image (N) and every text (M): (N, M)."""

    @abstractmethod
    def pair_scores(self, images: Features, texts: Features) -> Tensor:
        """The score of each image (B) and the text in the same place: (B,)."""


class EmbeddingModel(MatchingModel):
    """Encoders of vectors, matched by dot products: VSE++, VSRN."""

    matches_by = "embedding"

    def scores(self, images: Features, texts: Features) -> Tensor:
        return images.values @ texts.values.mT

    def pair_scores(self, images: Features, texts: Features) -> Tensor:
        return (images.values * texts.values).sum(dim=-1)


class CrossAttentionModel(MatchingModel):
    """Encoders of regions and words, matched by cross attention: SCAN, BFAN.

    Args:
        image_encoder: (N, R, F) -> (N, R, D); called with the numbers of regions too where they differ.
        text_encoder: tokens (M, L) and lengths (M,) -> (M, L, D).
        attention: what makes scores of both.
    """

    matches_by = "score"

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module, attention: CrossAttention) -> None:
        super().__init__(image_encoder, text_encoder)
        self.attention = attention

    def scores(self, images: Features, texts: Features) -> Tensor:
        return self._call(self.attention, images, texts)

    def pair_scores(self, images: Features, texts: Features) -> Tensor:
        return self._call(self.attention.pairs, images, texts)

    @staticmethod
    def _call(function: object, images: Features, texts: Features) -> Tensor:
        assert callable(function)
        lengths = texts.lengths
        if lengths is None:
            lengths = torch.full((len(texts),), texts.values.shape[1], dtype=torch.int64, device=texts.values.device)
        scores: Tensor = function(images.values, texts.values, lengths, images.lengths)
        return scores


class Scorer(Protocol):
    """A `MatchingModel`, or what scores as one."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def scores(self, images: Features, texts: Features) -> Tensor: ...

    def pair_scores(self, images: Features, texts: Features) -> Tensor: ...


def quintuplet_scores(
    model: Scorer,
    image: Features,  # x, of B
    text: Features,  # y
    hard_image: Features | None = None,
    hard_text: Features | None = None,
    hard_text_image: Features | None = None,  # the image that hard_text belongs to
    hard_image_text: Features | None = None,  # a text that belongs to hard_image
    texts: Features | None = None,  # what every image is scored with; by default the B texts
) -> dict[str, Tensor]:
    """The scores that `AdaptiveQuintupletScoreLoss` takes, by name and in its order: those whose features are given.

    No objective has the hard pairs without their partners, so these are scored together or not at all.
    """
    pairs = {"hard_text_scores": (image, hard_text), "hard_image_scores": (hard_image, text)}
    if hard_text_image is not None and hard_image_text is not None:
        pairs["hard_pair_scores"] = hard_image, hard_text
        pairs["partner_pair_scores"] = hard_text_image, hard_image_text
    scores = {"scores": model.scores(image, text if texts is None else texts)}
    for name, (left, right) in pairs.items():
        if left is not None and right is not None:
            scores[name] = model.pair_scores(left, right)
    return scores
