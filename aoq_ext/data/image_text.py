"""Images with their captions: the one data type that training, mining and evaluation read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from aoq_ext._scalars import as_strings
from aoq_ext.data.image_rows import select_rows


@dataclass(frozen=True)
class ImageTextData:
    """N images and the M captions that describe them.

    ``images`` may be any array with one row per image: pixels, or precomputed features of shape (N, regions, D). It may
    be a memory map, or an `ImageRows` that makes its rows when they are asked for.
    ``caption_image`` is sorted, so the captions of an image are neighbours. Images with equal ``group_ids`` show the
    same thing and are never each other's negatives.
    """

    images: np.ndarray  # (N, ...); pixels are (N, C, H, W) uint8
    captions: list[str]  # M
    caption_image: np.ndarray  # (M,) int64 in [0, N), non-decreasing
    group_ids: np.ndarray  # (N,) int64
    image_names: list[str]  # N, for people: "bell (tabler)"
    name: str  # "icons/train"

    def __post_init__(self) -> None:
        as_strings("captions", self.captions)
        as_strings("image_names", self.image_names)
        if self.images.ndim < 2:
            raise ValueError(f"images: expected one row per image, shape (N, ...), got shape {self.images.shape}")
        count = len(self.images)
        _check_integers("caption_image", self.caption_image, len(self.captions), "one image index per caption")
        _check_integers("group_ids", self.group_ids, count, "one group per image")
        if len(self.image_names) != count:
            raise ValueError(f"image_names: expected one name per image, {count}, got {len(self.image_names)}")
        if len(self.caption_image):
            low, high = int(self.caption_image.min()), int(self.caption_image.max())
            if low < 0 or high >= count:
                raise ValueError(f"caption_image: expected indices in [0, {count}), got {low} to {high}")
            if (np.diff(self.caption_image) < 0).any():
                raise ValueError("caption_image: expected non-decreasing indices (captions sorted by image)")

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.images)

    def captions_of(self, image_index: int) -> list[str]:
        """The captions of one image, in order; IndexError when there is no such image."""
        if not 0 <= image_index < len(self):
            raise IndexError(f"image_index: expected 0 to {len(self) - 1}, got {image_index}")
        first, last = np.searchsorted(self.caption_image, [image_index, image_index + 1])
        return self.captions[first:last]

    def subset(self, image_indices: Sequence[int] | np.ndarray, name: str | None = None) -> ImageTextData:
        """The given images, in the given order, with their captions.

        Every index must be in [0, N) and occur once. Group ids keep their values. Images that are not in memory stay
        where they are.
        """
        chosen = np.asarray(image_indices, dtype=np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"image_indices: expected 0 to {len(self) - 1}, got {chosen.min()} to {chosen.max()}")
        if len(np.unique(chosen)) != len(chosen):
            raise ValueError("image_indices: expected every index at most once")
        captions = [self.captions_of(int(index)) for index in chosen]
        return ImageTextData(
            images=cast(np.ndarray, select_rows(self.images, chosen)),
            captions=[caption for group in captions for caption in group],
            caption_image=np.repeat(np.arange(len(chosen)), [len(group) for group in captions]).astype(np.int64),
            group_ids=self.group_ids[chosen],
            image_names=[self.image_names[index] for index in chosen],
            name=self.name if name is None else name,
        )


def _check_integers(field: str, values: np.ndarray, count: int, meaning: str) -> None:
    """``values`` must be (count,) int64; TypeError or ValueError otherwise."""
    if not isinstance(values, np.ndarray) or values.dtype != np.int64:
        got = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise TypeError(f"{field}: expected an int64 array, got {got}")
    if values.shape != (count,):
        raise ValueError(f"{field}: expected shape ({count},), {meaning}, got {values.shape}")
