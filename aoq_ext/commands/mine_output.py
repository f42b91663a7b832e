"""What both forms of ``aoq mine`` share: options as fields, progress, and what is said of the lists."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from aoq_ext.lists.authors_layout import DRAWS, draws_from, write_authors_layout
from aoq_ext.mining.progress import MiningDisplay

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aoq_ext.commands.mine_report import Earlier
    from aoq_ext.lists import MinedLists


def note(message: str) -> None:
    print(f"note: {message}", file=sys.stderr)


def options_of(kind: type[Any], parsed: argparse.Namespace) -> dict[str, Any]:
    """The fields of a dataclass that are options."""
    return {field.name: getattr(parsed, field.name) for field in fields(kind) if hasattr(parsed, field.name)}


@contextmanager
def shown_progress() -> Iterator[MiningDisplay]:
    try:
        with MiningDisplay() as display:
            yield display
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("the same command continues it") from error


def earlier_lists(parsed: argparse.Namespace, images: int, texts: int) -> Earlier | None:
    """What the page is to compare the lists with, refused before the work if it is not of so many images and texts."""
    if parsed.earlier is None:
        return None
    from aoq_ext.commands.mine_report import open_earlier

    return open_earlier(parsed.earlier, images, texts)


def finish(parsed: argparse.Namespace, lists: MinedLists, anchors: str, candidates: str, now: bool) -> None:
    """Say what was found, and export it where that is asked for; ``now``: by this call."""
    sides = [(lists.indices, anchors, candidates)]
    if lists.reverse_indices is not None:
        sides.append((lists.reverse_indices, candidates, anchors))
    found = [f"{side.shape[1]} {others} for each of {len(side):,} {rows}" for side, rows, others in sides]
    print(f"{parsed.out}: {'' if now else 'mined before, '}{', '.join(found)}")
    for side, rows, _ in sides:
        if (short := _shortness(side, rows)) is not None:
            print(short)
    if parsed.authors_layout is not None:
        paths = write_authors_layout(parsed.authors_layout, parsed.data_name or "coco", lists.texts, lists.images)
        print(f"{paths[0]}, {paths[1]}: as the authors' training code reads them")
        if (most := draws_from(lists.texts.shape[1], lists.images.shape[1])) < DRAWS:
            note(f"that code draws from lists of {DRAWS} texts and {DRAWS // 5} images; tell it --offcandisize {most}")


def _shortness(lists: NDArray[Any], anchors: str) -> str | None:  # (n, k), -1 where there are no more
    """How many lists have gaps; None if none has."""
    count, k = lists.shape
    short, empty = int((lists[:, -1] < 0).sum()), int((lists[:, 0] < 0).sum())
    parts = []
    if empty:
        parts.append(f"no negative for {empty:,} of {count:,} {anchors}, which training refuses")
    if short > empty:
        parts.append(f"fewer than {k} for {short - empty:,} of {count:,} {anchors}")
    return "; ".join(parts) or None
