"""A data set that is made up in a moment, to try the study on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aoq_ext.data import ImageTextData

CONCEPTS = 64


def load_patterns(split: str = "train", root: str | Path | None = None) -> ImageTextData:
    """Every concept is a pattern of its own and a word; the splits have other noise."""
    patterns = np.random.default_rng(0).integers(0, 200, (CONCEPTS, 3, 8, 8))
    noise = np.random.default_rng(len(split)).integers(0, 40, patterns.shape)
    return ImageTextData(
        images=(patterns + noise).astype(np.uint8),
        captions=[f"thing{concept}" for concept in range(CONCEPTS)],
        caption_image=np.arange(CONCEPTS, dtype=np.int64),
        group_ids=np.arange(CONCEPTS, dtype=np.int64),
        image_names=[f"thing{concept}" for concept in range(CONCEPTS)],
        name=f"patterns/{split}",
    )
