"""A training set ready to be indexed: images, tokens and groups."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from aoq_ext.data import DataError, ImageRows, ImageTextData, read_rows
from aoq_ext.training.batches import CaptionsOfImages, Indices
from aoq_ext.training.components import find
from aoq_ext.training.config import ConfigError, DataConfig
from aoq_ext.training.step import RowNumbers, StepRows
from aoq_ext.training.tokens import encode_captions

if TYPE_CHECKING:
    from aoq_ext.data import Tokenizer


def load_split(config: DataConfig, split: str) -> ImageTextData:
    loader = find(config.loader, "data.loader")
    arguments = _arguments(loader, config)
    try:
        data = loader(split, **arguments)
    except OSError as error:
        if config.root is None or (os.path.isabs(config.root) and os.path.exists(config.root)):
            raise
        raise DataError(_looked_in(config.root, error)) from error
    source = f"data.loader: {config.loader}({split!r})"
    if not isinstance(data, ImageTextData):
        raise ConfigError(f"{source}: expected an aoq_ext.data.ImageTextData, got {type(data).__name__}")
    if not isinstance(data.images, ImageRows) or data.images.dtype not in (np.uint8, np.float32):
        got = getattr(data.images, "dtype", None)
        raise ConfigError(
            f"{source}: expected images as a numpy array of uint8 or float32, "
            f"got {type(data.images).__name__}{f' of {got}' if got else ''}"
        )
    if split == config.train_split and len(np.unique(data.group_ids)) < 2:
        raise ConfigError(
            f"{source}: expected images of at least 2 groups, got 1: images of one group are never negatives; "
            f"check group_ids"
        )
    return data


def _looked_in(root: str, error: OSError) -> str:
    """The error of a loader, with what its paths are relative to."""
    where = os.path.abspath(root)
    relative = "" if os.path.isabs(root) else f" (relative to the current folder, {os.getcwd()})"
    if os.path.exists(where):
        return f"{error}; data.root is {where}{relative}"
    return (
        f"data.root: expected the folder with the data, got {root}, which does not exist: looked for {where}"
        f"{relative}; where it moved, name the new folder (--data.root of aoq train, --root of the other commands)"
    )


def _arguments(loader: Any, config: DataConfig) -> dict[str, Any]:
    if taken := {"split", "root"} & config.args.keys():
        raise ConfigError(f"data.args: expected arguments other than split and root, got {', '.join(sorted(taken))}")
    given = ({} if config.root is None else {"root": config.root}) | config.args
    if config.args:
        try:
            inspect.signature(loader).bind("", **given)
        except TypeError as error:
            raise ConfigError(
                f"data.args: expected arguments of {config.loader}{inspect.signature(loader)}, "
                f"got {config.args} ({error})"
            ) from error
    return given


class EncodedPairs:
    """A data set with its captions as tokens."""

    def __init__(self, data: ImageTextData, tokenizer: Tokenizer) -> None:
        if len(data.images) < 2:
            raise ConfigError(f"data: expected at least 2 images in {data.name!r}, got {len(data.images)}")
        self.data = data
        self.tokens, self.lengths = encode_captions(tokenizer, data.captions)  # (M, L), (M,)
        self.caption_image: Indices = data.caption_image  # (M,)
        self.captions = CaptionsOfImages(self.caption_image, len(data.images))

    def rows(self, numbers: RowNumbers, images: Tensor | None = None) -> StepRows:
        """What a step looks at; ``images`` (P, ...) where they were read before."""
        if images is None:
            images = torch.from_numpy(read_rows(self.data.images, numbers.image))
        text, own = torch.from_numpy(numbers.text), numbers.image[: numbers.pairs]
        return StepRows(images, self.tokens[text], self.lengths[text], torch.from_numpy(self.data.group_ids[own]))
