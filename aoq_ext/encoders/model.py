"""What a model is, for training, evaluation and mining alike: encoders of both sides, and a score of what they made.

It *embeds*, when an image and a text become a vector each and their score is the product of the two, or it *scores*,
when only the model itself can say how well the features of an image and a text match. `MatchingModel` is the interface
of both; `EmbeddingModel` is all there is to the first kind, `aoq_ext.encoders.SCAN` an example of the second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from aoq_ext.encoders.padding import padded_to


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

    @staticmethod
    def concatenate(parts: Sequence[Features]) -> Features:
        """The rows of all parts; where these are padded to different lengths, to the longest."""
        if len(parts) == 1:
            return parts[0]
        longest = max(part.values.shape[1] for part in parts)
        lengths = [part.lengths for part in parts if part.lengths is not None]
        values = torch.cat([padded_to(longest, part.values) for part in parts])
        return Features(values, torch.cat(lengths) if lengths else None)

    def to(self, device: torch.device | str) -> Features:
        return Features(self.values.to(device), None if self.lengths is None else self.lengths.to(device))

    def full_precision(self) -> Features:
        """Half precision, as autocast leaves it, made float32: scores are never compared in less."""
        half = self.values.dtype in (torch.float16, torch.bfloat16)
        return Features(self.values.float(), self.lengths) if half else self


class MatchingModel(nn.Module, ABC):
    """Two encoders and what makes scores of their features.

    A model of your own derives from it and says what ``matches_by`` and the two kinds of scores are.

    =================  =====================================  ===============================================
    ``matches_by``     ``"embedding"``                        ``"score"``
    =================  =====================================  ===============================================
    features           ``values`` (N, D)                      whatever it scores, as regions (N, R, D)
    scores             products of the vectors                the model's
    loss               `AdaptiveQuintupletLoss` on            `AdaptiveQuintupletScoreLoss` on what
                       ``values``: no score matrix            `quintuplet_scores` returns
    mining             exact, by the vectors                  candidates by the mean of ``values``, then scores
    =================  =====================================  ===============================================
    """

    matches_by: Literal["embedding", "score"]

    def __init__(self, image_encoder: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder

    @property
    def embeds(self) -> bool:
        return self.matches_by == "embedding"

    def encode_images(self, images: Tensor, lengths: Tensor | None = None) -> Features:
        """images: (N, ...), floating point; lengths: (N,), of images with differing numbers of regions"""
        return _features(self.image_encoder(images, *_given(lengths)), lengths)

    def encode_texts(self, tokens: Tensor, lengths: Tensor) -> Features:
        """tokens: (M, L) integers; lengths: (M,)"""
        return _features(self.text_encoder(tokens, lengths), lengths)

    def encode_regions(self, images: Tensor, lengths: Tensor | None = None) -> tuple[Features, Features]:
        """As `encode_images`, and the regions (N, R, D) that a loss beside the matching reads.

        These are what ``image_encoder.encode(images) -> features, regions`` gives, where there is such a method; else
        the features themselves.
        """
        encode = getattr(self.image_encoder, "encode", None)
        if callable(encode):
            values, regions = encode(images, *_given(lengths))
            return _features(values, lengths), _features(regions, lengths)
        features = self.encode_images(images, lengths)
        if features.values.dim() != 3:
            raise ValueError(
                f"image_encoder: expected encode(images) -> features, regions, or features of shape (N, R, D), for a "
                f"loss of the regions, got {type(self.image_encoder).__name__} with features of shape "
                f"{tuple(features.values.shape)}"
            )
        return features, features

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


def quintuplet_scores(
    model: MatchingModel,
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


def _features(values: Tensor, lengths: Tensor | None) -> Features:
    """What an encoder returned; vectors have no lengths."""
    return Features(values, lengths if getattr(values, "ndim", None) == 3 else None)


def _given(lengths: Tensor | None) -> tuple[Tensor, ...]:
    return () if lengths is None else (lengths,)
