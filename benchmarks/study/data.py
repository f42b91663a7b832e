"""A data set that is read once in a process, however many runs of it the process carries out."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from aoq_ext.data import ImageTextData
from aoq_ext.training.components import find


def load(
    split: str = "train",
    root: str | Path | None = None,
    *,
    loader: str,
    train_images: int | None = None,
    colour: bool = False,
    **arguments: Any,
) -> ImageTextData:
    """What the function at the dotted path ``loader`` returns.

    Args:
        train_images: so many images of the training split, drawn once; None: all of them.
        colour: repeat grey images (N, 1, H, W) as (N, 3, H, W), for encoders that expect colour.
        arguments: further ones of the loader.
    """
    return _load(split, root, loader, train_images, colour, tuple(sorted(arguments.items())))


@lru_cache(maxsize=4)
def _load(
    split: str, root: str | Path | None, loader: str, train_images: int | None, colour: bool, arguments: tuple[Any, ...]
) -> ImageTextData:
    data: ImageTextData = find(loader, "data.args.loader")(split, root=root, **dict(arguments))
    if split == "train" and train_images is not None and train_images < len(data):
        data = data.subset(np.sort(np.random.default_rng(0).permutation(len(data))[:train_images]))
    if colour and data.images.ndim == 4 and data.images.shape[1] == 1:
        object.__setattr__(data, "images", np.repeat(data.images, 3, axis=1))
    return data
