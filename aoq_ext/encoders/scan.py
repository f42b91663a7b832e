"""SCAN and BFAN: models that match by cross attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aoq_ext._options import option_of
from aoq_ext.encoders.cross_attention import CrossAttention
from aoq_ext.encoders.model import Features, MatchingModel
from aoq_ext.encoders.regions import RegionEncoder
from aoq_ext.encoders.words import BiGRUWordEncoder

_LAMBDA_SOFTMAX = {"t2i": 9.0, "i2t": 4.0}
_LAMBDA_LSE = {"t2i": 6.0, "i2t": 5.0}


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
        scores: Tensor = self.attention(images.values, texts.values, _lengths(texts), images.lengths)
        return scores

    def pair_scores(self, images: Features, texts: Features) -> Tensor:
        return self.attention.pairs(images.values, texts.values, _lengths(texts), images.lengths)


def _lengths(texts: Features) -> Tensor:
    if texts.lengths is not None:
        return texts.lengths
    return texts.values.new_full((len(texts),), texts.values.shape[1], dtype=torch.int64)


class SCAN(CrossAttentionModel):
    """Stacked Cross Attention.

    "Stacked Cross Attention for Image-Text Matching", Lee, Chen, Hua, Hu, He, ECCV 2018, arXiv 1803.08024, section
    3.1. Image-text (``i2t``): cosines s_ij of region i and word j (equation 1), clipped at zero and normalised over
    the regions, give the attention by a softmax over the words with inverse temperature λ₁ (3); a region is compared
    with the words it attends to by a cosine (4), and the cosines are pooled by LogSumExp with λ₂ (5) or the mean
    (6). Text-image (``t2i``) is the same with regions and words exchanged (7 to 10).

    The released code differs from the paper in clipping by a leaky rectifier of slope 0.1, and in offering the other
    normalisations; it calls two of them (``l1norm``, ``clipped_l1norm``) by a name that it does not define. Features
    are L2-normalised there, so that products are the cosines of equation 1.

    Args:
        vocabulary_size: the number of tokens.
        image_dim: the size of a region's precomputed features.
        dim: D, the size of the joint space.
        word_dim: the size of a word vector.
        direction: ``"t2i"``, ``"i2t"`` or ``"both"`` (the sum; the paper's ensembles add two models' scores).
        feature_norm, pooling: see `CrossAttention`.
        lambda_softmax, lambda_lse: λ₁ and λ₂; by default the authors' for the direction, 9 and 6 in ``t2i``, 4 and 5
            in ``i2t`` (for MS-COCO with LogSumExp they took 20, not 5).
        bidirectional: whether the GRU is.
        chunk_elements: see `CrossAttention`.

    Example:
        >>> import torch
        >>> model = SCAN(10, image_dim=16, dim=8, word_dim=4)
        >>> images = model.encode_images(torch.randn(2, 36, 16))
        >>> texts = model.encode_texts(torch.tensor([[1, 5, 2, 0], [1, 6, 7, 2]]), torch.tensor([3, 4]))
        >>> model.scores(images, texts).shape
        torch.Size([2, 2])
    """

    direction: str = option_of("attention")
    feature_norm: str = option_of("attention")
    pooling: str = option_of("attention")
    lambda_softmax: float = option_of("attention")
    lambda_lse: float = option_of("attention")
    chunk_elements: int | None = option_of("attention")

    def __init__(
        self,
        vocabulary_size: int,
        image_dim: int = 2048,
        dim: int = 1024,
        word_dim: int = 300,
        direction: str = "t2i",
        feature_norm: str = "clipped_l2norm",
        pooling: str = "lse",
        lambda_softmax: float | None = None,
        lambda_lse: float | None = None,
        bidirectional: bool = True,
        chunk_elements: int | None = None,
    ) -> None:
        super().__init__(
            RegionEncoder(image_dim, dim),
            BiGRUWordEncoder(vocabulary_size, dim, word_dim, bidirectional=bidirectional),
            CrossAttention(
                direction=direction,
                feature_norm=feature_norm,
                lambda_softmax=_LAMBDA_SOFTMAX.get(direction, 9.0) if lambda_softmax is None else lambda_softmax,
                pooling=pooling,
                lambda_lse=_LAMBDA_LSE.get(direction, 6.0) if lambda_lse is None else lambda_lse,
                chunk_elements=chunk_elements,
            ),
        )


class BFAN(CrossAttentionModel):
    """Bidirectional Focal Attention.

    "Focus Your Attention: A Bidirectional Focal Attention Network for Image-Text Matching", Liu, Mao, Liu, Zhang, Wang,
    Zhang, ACM MM 2019, arXiv 1909.11416, section 3.2. Three steps: attention is assigned as in SCAN, with λ = 20;
    fragment i is relevant where F(x_i) = Σ_t (x_i − x_t) g(x_t) > 0, with x the attention and the confidence g either 1
    (``"equal"``) or √x_t (``"prob"``); attention goes to the relevant fragments alone, in proportion. The score is the
    mean cosine over words plus the mean cosine over regions.

    The released code clips by a leaky rectifier of slope 0.1, and makes NaN of attention that is exactly equal, as that
    of a one-word caption; here equal fragments are all kept. Σ_t (x_i − x_t) √x_t is computed there for every i and t;
    here as x_i Σ_t √x_t − Σ_t x_t √x_t.

    Args:
        focal: ``"equal"`` or ``"prob"``; the paper's full model adds the scores of two models, one of each.
        lambda_softmax: λ.
        vocabulary_size, image_dim, dim, word_dim, chunk_elements: as for `SCAN`.
    """

    focal: str = option_of("attention")
    lambda_softmax: float = option_of("attention")
    chunk_elements: int | None = option_of("attention")

    def __init__(
        self,
        vocabulary_size: int,
        image_dim: int = 2048,
        dim: int = 1024,
        word_dim: int = 300,
        focal: str = "prob",
        lambda_softmax: float = 20.0,
        chunk_elements: int | None = None,
    ) -> None:
        super().__init__(
            RegionEncoder(image_dim, dim),
            BiGRUWordEncoder(vocabulary_size, dim, word_dim),
            CrossAttention(
                direction="both",
                feature_norm="clipped_l2norm",
                lambda_softmax=lambda_softmax,
                pooling="mean",
                focal=focal,
                chunk_elements=chunk_elements,
            ),
        )
