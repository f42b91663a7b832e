"""Captions that say the same: no negative of an image may be a text that another of its own captions repeats."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from aoq_ext._scalars import as_strings

Ragged = tuple[Tensor, Tensor]  # (values, offsets), as `mine_hard_negatives` takes labels


_QUOTES = "`\u00b4"  # accents by category


class _Unpunctuated(dict[int, str]):
    """Punctuation as spaces; characters are looked up when they first occur."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = " " if unicodedata.category(character)[0] == "P" or character in _QUOTES else character
        return self[code]


_UNPUNCTUATED = _Unpunctuated()


def normalised(caption: str) -> str:
    """What two captions that say the same have in common: no case, no punctuation, single spaces, composed accents.

    A caption of nothing but punctuation keeps it.
    """
    text = unicodedata.normalize("NFC", caption.casefold())
    return " ".join(text.translate(_UNPUNCTUATED).split()) or " ".join(text.split())


def caption_labels(captions: Sequence[str], text_image_index: Tensor, images: int) -> tuple[Ragged, Ragged]:
    """Labels of the texts and of the images, by which a text belongs to every image that has an equal caption.

    A text has one label, the number of its caption among the different ones; an image has those of its own texts. As
    ``candidate_labels`` and ``anchor_labels`` (or the other way round) they keep an image from every text that repeats
    a caption of it, and a text from every image that is so described.

    Args:
        captions: (M,), compared as `normalised`: by their words, whatever case, punctuation and spaces.
        text_image_index: (M,) the image of each text.
        images: how many there are.

    Returns:
        labels of the texts and labels of the images, each (values, offsets).
    """
    return labels_of(map(normalised, as_strings("captions", captions)), text_image_index, images)


def token_labels(tokens: Tensor, lengths: Tensor, text_image_index: Tensor, images: int) -> tuple[Ragged, Ragged]:
    """`caption_labels` for texts (M, L) of these lengths (M,), which say the same where a model reads the same."""
    rows = zip(tokens.cpu().numpy(), lengths.tolist(), strict=True)
    return labels_of((row[:length].tobytes() for row, length in rows), text_image_index, images)


def labels_of(texts: Iterable[Hashable], text_image_index: Tensor, images: int) -> tuple[Ragged, Ragged]:
    """`caption_labels` for texts that say the same where they are equal."""
    numbers: dict[Hashable, int] = {}
    label = torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts], dtype=torch.int64, device="cpu")
    index = text_image_index.long().cpu()
    if len(label) != len(index):
        raise ValueError(f"captions must be one for each of the {len(index)} texts, got {len(label)}")
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < images:
        raise ValueError(
            f"text_image_index must be from 0 to {images - 1}, got {int(index.min())} to {int(index.max())}"
        )
    own = torch.unique(torch.stack([index, label], dim=1), dim=0)  # sorted by image
    offsets = torch.zeros(images + 1, dtype=torch.int64, device="cpu")
    offsets[1:] = torch.bincount(own[:, 0], minlength=images).cumsum(0)
    return (label, torch.arange(len(label) + 1, dtype=torch.int64, device="cpu")), (own[:, 1].contiguous(), offsets)
