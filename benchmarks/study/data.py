"""Data sets as the study reads them: each once in a process, however many runs of it the process carries out."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from aoq_ext.data import ImageTextData
from aoq_ext.data.icon_set import CHECKSUMS, ICONS_ROOT
from aoq_ext.training.components import find

CONCEPTS = 64


def icons_version() -> str:
    """Changes with the bundled data, which results and features are of."""
    return hashlib.sha256((ICONS_ROOT / CHECKSUMS).read_bytes()).hexdigest()[:12]


@lru_cache(maxsize=4)
def load(split: str = "train", root: str | Path | None = None, *, loader: str, **arguments: Any) -> ImageTextData:
    """What the function at the dotted path ``loader`` returns, given the further arguments."""
    data: ImageTextData = find(loader, "data.args.loader")(split, root=root, **arguments)
    return data


def load_patterns(split: str = "train", root: str | Path | None = None) -> ImageTextData:
    """Made up in a moment, to try the study on: a concept is a pattern and a word; the splits have other noise."""
    patterns = np.random.default_rng(0).integers(0, 200, (CONCEPTS, 3, 8, 8))
    noise = np.random.default_rng(len(split)).integers(0, 40, patterns.shape)
    names = [f"thing{concept}" for concept in range(CONCEPTS)]
    numbers = np.arange(CONCEPTS, dtype=np.int64)
    return ImageTextData((patterns + noise).astype(np.uint8), names, numbers, numbers, names, f"patterns/{split}")
