"""Encoders of timm, transformers and open_clip for `aoq train`, as a configuration names them.

    aoq train --config examples/timm-transformers.yaml
    aoq train --config examples/open-clip.yaml

from the repository's root. Elsewhere, copy this file into the folder that you call `aoq` from, and write
`encoders.TimmImages` for `examples.encoders.TimmImages`. Wants `pip install 'aoq_ext[train,vision]'`; each class needs
only the library it wraps. Images come in [-1, 1] and are resized to what the encoder wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aoq_ext.encoders import EmbeddingModel


class Resize(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to another size, and to another mean and deviation of each channel."""

    def __init__(self, size: int | tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        return (images / 2 + 0.5 - self.mean) / self.std


class TimmImages(nn.Module):
    """An image model of timm, whose classifier becomes a linear map to L2-normalised embeddings (B, D).

    Args:
        name, pretrained, options: of `timm.create_model`.
        image_size: pixels; null: what the model was trained with.
    """

    def __init__(
        self, name: str, dim: int = 128, pretrained: bool = False, image_size: int | None = None, **options: Any
    ) -> None:
        import timm

        super().__init__()
        self.model = timm.create_model(name, pretrained=pretrained, num_classes=dim, **options)
        wanted = timm.data.resolve_model_data_config(self.model)
        self.resize = Resize(image_size or wanted["input_size"][1:], wanted["mean"], wanted["std"])

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) -> (B, D)"""
        return F.normalize(self.model(self.resize(images)), dim=1)


class TransformersTexts(nn.Module):
    """A text model of transformers; the mean of its words, and a linear map to L2-normalised embeddings (B, D).

    Args:
        name: the pretrained model; null: random weights, after ``config``.
        config: the arguments of `AutoConfig.for_model`, such as model_type and hidden_size.
    """

    def __init__(
        self, vocabulary_size: int, dim: int = 128, name: str | None = None, config: dict[str, Any] | None = None
    ) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        if name is not None:
            self.model = AutoModel.from_pretrained(name)
        else:
            self.model = AutoModel.from_config(AutoConfig.for_model(vocab_size=vocabulary_size, **(config or {})))
        self.project = nn.Linear(self.model.config.hidden_size, dim)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens: (B, L); lengths: (B,) -> (B, D)"""
        mask = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()  # (B, L)
        words = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state  # (B, L, hidden)
        mean = (words * mask[..., None]).sum(dim=1) / lengths[:, None]
        return F.normalize(self.project(mean), dim=1)


class TransformersTokens:
    """The tokenizer of a pretrained model of transformers."""

    def __init__(self, name: str, max_length: int = 64) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """M captions -> tokens (M, L) and lengths (M,)"""
        batch = self.tokenizer(
            list(captions),
            return_tensors="pt",
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
        )
        return batch["input_ids"], batch["attention_mask"].sum(dim=1)


class OpenClip(EmbeddingModel):
    """Both encoders of an open_clip model, to L2-normalised embeddings (B, D).

    Args:
        name, pretrained: of `open_clip.create_model`; null: random weights, after ``config``.
        config: the arguments of `open_clip.CustomTextCLIP`: embed_dim, vision_cfg and text_cfg.
    """

    def __init__(
        self, name: str | None = None, pretrained: str | None = None, config: dict[str, Any] | None = None
    ) -> None:
        import open_clip

        if name is not None:
            model = open_clip.create_model(name, pretrained=pretrained, force_custom_text=True)
        else:
            model = open_clip.CustomTextCLIP(**(config or {}))
        mean = getattr(model.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
        std = getattr(model.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
        resize = Resize(model.visual.image_size, mean, std)
        super().__init__(nn.Sequential(resize, model.visual, Normalize()), OpenClipTexts(model.text))


class OpenClipTexts(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens: (B, L) of `OpenClipTokens`, whose ends the model finds itself -> (B, D)"""
        padded = F.pad(tokens, (0, max(0, self.model.context_length - tokens.shape[1])))  # its mask has one size
        return F.normalize(self.model(padded), dim=1)


class Normalize(nn.Module):
    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, D) -> (B, D)"""
        return F.normalize(embeddings, dim=1)


class OpenClipTokens:
    """CLIP's own byte pairs, which come with open_clip; ``context_length``: that of the model."""

    def __init__(self, context_length: int = 77) -> None:
        import open_clip

        self.tokenizer = open_clip.SimpleTokenizer(context_length=context_length)

    def __len__(self) -> int:
        return self.tokenizer.vocab_size

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """M captions -> tokens (M, L) and lengths (M,)"""
        tokens = self.tokenizer(list(captions))
        return tokens, tokens.argmax(dim=1) + 1  # the end has the highest number
