"""Images that are read in peculiar ways. Processes that read import this, and nothing heavy with it."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aoq_ext.data import ImageTextData
from aoq_ext.data.image_rows import LazyRows

BAD = 17  # the image that some cannot read


class Copied(LazyRows):
    """Rows of an array."""

    def __init__(self, images: np.ndarray, folder: str | None) -> None:
        super().__init__(images.shape, images.dtype)
        self.images = images
        self.folder = folder

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]

    def broken(self, rows: np.ndarray) -> bool:
        return BAD in rows and (Path(self.folder or "") / "broken").exists()


class Drawing(Copied):
    """Turns images by what it draws of every generator."""

    def update_hash(self, digest: Any) -> None:
        digest.update(self.images.tobytes())

    def _read(self, rows: np.ndarray) -> np.ndarray:
        turns = random.randrange(4) + np.random.randint(4, size=len(rows)) + torch.randint(4, (len(rows),)).numpy()  # noqa: NPY002
        return np.stack([np.rot90(self.images[row], turn, (1, 2)) for row, turn in zip(rows, turns, strict=True)])


class Failing(Copied):
    def _read(self, rows: np.ndarray) -> np.ndarray:
        if self.broken(rows):
            raise ValueError("bad sector")
        return super()._read(rows)


class Killed(Copied):
    def _read(self, rows: np.ndarray) -> np.ndarray:
        if self.broken(rows):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._read(rows)


class Unpicklable(Copied):
    def __init__(self, images: np.ndarray, folder: str | None) -> None:
        super().__init__(images, folder)
        self.key = lambda row: row


def load(split: str = "train", root: str | None = None, kind: str = "Copied") -> ImageTextData:
    """The toy set; kind: of its training images, one of the classes here, ``array`` or ``mapped``."""
    from tests.training.test_toy import load_toy

    data = load_toy(split)
    if split != "train" or kind == "array":
        return data
    if kind == "mapped":
        path = Path(root or "") / "images.npy"
        if not path.exists():
            np.save(path, data.images)
        return replace(data, images=np.load(path, mmap_mode="r"))
    images: Any = globals()[kind](data.images, root)
    return replace(data, images=images)
