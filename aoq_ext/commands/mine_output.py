"""What ``aoq mine`` says of the lists, however they were mined, and how it exports them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aoq_ext.lists.authors_layout import DRAWS, draws_from, write_authors_layout

if TYPE_CHECKING:
    from numpy.typing import NDArray


def note(message: str) -> None:
    print(f"note: {message}", file=sys.stderr)


def shortness(lists: NDArray[Any], anchors: str) -> str | None:  # (n, k), -1 where there are no more
    """How many lists have gaps; None if none has."""
    count, k = lists.shape
    short, empty = int((lists[:, -1] < 0).sum()), int((lists[:, 0] < 0).sum())
    parts = []
    if empty:
        parts.append(f"no negative for {empty:,} of {count:,} {anchors}, which training refuses")
    if short > empty:
        parts.append(f"fewer than {k} for {short - empty:,} of {count:,} {anchors}")
    return "; ".join(parts) or None


def export_authors_layout(
    folder: Path,
    data_name: str | None,
    texts: NDArray[Any],  # (N, k) texts for each image
    images: NDArray[Any],  # (5 N, k) images for each text
) -> None:
    paths = write_authors_layout(folder, data_name or "coco", texts, images)
    print(f"{paths[0]}, {paths[1]}: as the authors' training code reads them")
    most = draws_from(texts.shape[1], images.shape[1])
    if most < DRAWS:
        note(f"that code draws from lists of {DRAWS} texts and {DRAWS // 5} images; tell it --offcandisize {most}")
