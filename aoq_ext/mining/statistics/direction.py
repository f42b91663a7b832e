"""One of the two directions of a mining, so that everything is computed and said once for both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .data import MiningRecord, RankedLists


@dataclass(frozen=True, eq=False)
class Direction:
    key: str  # "image_to_text"
    title: str  # "image → caption"
    anchor: str  # "image", for sentences
    candidate: str  # "caption"
    lists: RankedLists
    candidate_count: int
    positive: NDArray[np.float32] | None  # (A,) the anchor's best own score, NaN where unknown
    earlier: RankedLists | None

    @property
    def anchor_count(self) -> int:
        return len(self.lists.indices)


def directions(data: MiningRecord) -> list[Direction]:
    """Image to caption, and the reverse where it was mined."""
    found = [
        Direction(
            "image_to_text",
            "image → caption",
            "image",
            "caption",
            data.texts,
            data.text_count,
            data.best_own_scores(),
            data.earlier,
        )
    ]
    if data.images is not None:
        found.append(
            Direction(
                "text_to_image",
                "caption → image",
                "caption",
                "image",
                data.images,
                data.image_count,
                data.own_scores_of_texts(),
                data.earlier_images,
            )
        )
    return found
