"""Negatives that the model rates above the anchor's own best pair: some of them are no negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..captions import normalised
from .data import MiningRecord
from .direction import Direction
from .scan import Scan

CASES_SHOWN = 24


@dataclass(frozen=True)
class Case:
    """An anchor with the suspected negative it scores highest."""

    anchor: int
    candidate: int
    positive: float
    score: float
    suspects: int  # negatives of this anchor above its positive


@dataclass(frozen=True, eq=False)
class Suspects:
    known: int  # anchors with a known positive
    anchors: int  # of these, with at least one suspect
    pairs: int
    same_words: int | None  # suspected anchors whose hardest negative has the words of an own caption
    excess: NDArray[np.float64]  # (E,) hardest negative minus best positive, where both are known
    cases: tuple[Case, ...]  # highest excess first, ties by the lower anchor


def find_suspects(data: MiningRecord, direction: Direction, scanned: Scan) -> Suspects | None:
    """None where no positive scores were given."""
    positive = direction.positive
    if positive is None:
        return None
    both = np.isfinite(positive) & np.isfinite(scanned.at_rank[:, 0])
    excess = np.full(direction.anchor_count, -np.inf)
    excess[both] = scanned.at_rank[both, 0].astype(np.float64) - positive[both].astype(np.float64)
    suspected = np.flatnonzero(excess > 0)
    chosen = suspected[np.argsort(-excess[suspected], kind="stable")[:CASES_SHOWN]]
    return Suspects(
        known=int(np.count_nonzero(np.isfinite(positive))),
        anchors=int(np.count_nonzero(scanned.suspects)),
        pairs=int(scanned.suspects.sum()),
        same_words=_same_words(data, direction, suspected, scanned.hardest[suspected]),
        excess=excess[both],
        cases=tuple(
            Case(
                anchor=int(anchor),
                candidate=int(scanned.hardest[anchor]),
                positive=float(positive[anchor]),
                score=float(scanned.at_rank[anchor, 0]),
                suspects=int(scanned.suspects[anchor]),
            )
            for anchor in chosen
        ),
    )


def _same_words(
    data: MiningRecord, direction: Direction, anchors: NDArray[np.int64], candidates: NDArray[np.int64]
) -> int | None:
    """Pairs (anchors[i], candidates[i]) in which the text says the same as an own caption of the image."""
    if data.captions is None or data.text_image_index is None:
        return None
    words = caption_numbers(data.captions)
    different = int(words.max(initial=-1)) + 1
    own = np.unique(np.asarray(data.text_image_index, np.int64) * different + words)
    images, texts = (anchors, candidates) if direction.key == "image_to_text" else (candidates, anchors)
    return int(np.isin(images * different + words[texts], own).sum())


def caption_numbers(captions: Sequence[str]) -> NDArray[np.int64]:
    """(M,) equal numbers for captions that say the same."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(normalised(caption), len(numbers)) for caption in captions], np.int64)
