"""Captions that say the same: no negative of an image may be a text that another of its own captions repeats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

_FINAL_PUNCTUATION = re.compile(r"[\s.,;:!?…。！？]+\Z")

Ragged = tuple[Tensor, Tensor]  # (values, offsets), as `mine_hard_negatives` takes labels


def normalised(caption: str) -> str:
    """What two captions that say the same have in common: no case, single spaces, no punctuation at the end."""
    return _FINAL_PUNCTUATION.sub("", " ".join(caption.casefold().split()))


def caption_labels(captions: Sequence[str], text_image_index: Tensor, images: int) -> tuple[Ragged, Ragged]:
    """Labels of the texts and of the images, by which a text belongs to every image that has an equal caption.

    A text has one label, the number of its caption among the different ones; an image has those of its own texts. As
    ``candidate_labels`` and ``anchor_labels`` (or the other way round) they keep an image from every text that repeats
    a caption of it, and a text from every image that is so described.

    Args:
        captions: (M,), compared as `normalised`.
        text_image_index: (M,) the image of each text.
        images: how many there are.

    Returns:
        labels of the texts and labels of the images, each (values, offsets).
    """
    index = text_image_index.long().cpu()
    if len(captions) != len(index):
        raise ValueError(f"captions must be one for each of the {len(index)} texts, got {len(captions)}")
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < images:
        raise ValueError(
            f"text_image_index must be from 0 to {images - 1}, got {int(index.min())} to {int(index.max())}"
        )
    numbers: dict[str, int] = {}
    label = torch.tensor(
        [numbers.setdefault(normalised(caption), len(numbers)) for caption in captions], dtype=torch.int64, device="cpu"
    )
    own = torch.unique(torch.stack([index, label], dim=1), dim=0)  # sorted by image
    offsets = torch.zeros(images + 1, dtype=torch.int64, device="cpu")
    offsets[1:] = torch.bincount(own[:, 0], minlength=images).cumsum(0)
    return (label, torch.arange(len(label) + 1, device="cpu")), (own[:, 1].contiguous(), offsets)


def read_captions(path: str | Path) -> list[str]:
    """One caption a line, UTF-8."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"captions must be a file with one caption a line, got {path}, which is missing")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"captions must be UTF-8, got {path}: {error}") from error
    lines = text.split("\n")  # splitlines would also split at characters that a caption may hold
    return [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
