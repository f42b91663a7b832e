"""Writing mined lists: the arrays, and last the manifest that vouches for them. Nothing else writes any.

A folder of mined lists holds::

    manifest.json                            the problem, which side is texts, and the lists with size and sha256
    indices.npy scores.npy                   (N, k) for the anchors
    reverse_indices.npy reverse_scores.npy   (M, k_reverse) for the candidates, where both directions are mined
    text_image.npy                           (M,) the image of each text, of lists that were mined with a run
    shards/                                  the work so far, while it is not complete
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from .._arrays import ArrayWriter, write_array
from .._files import remove_temporaries, write_atomically
from .manifest import FILES, MANIFEST, Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_INT32 = 2**31 - 1


@dataclass(frozen=True)
class ListRows:
    """The lists of one side, some rows at a time."""

    shape: tuple[int, int]  # (rows, k)
    others: int  # rows of the other side
    blocks: Iterable[tuple[Tensor, Tensor]]  # indices, any integers, and scores, float32: each (some rows, k)


def begin_lists(folder: Path, manifest: Manifest) -> None:
    """Claim the folder: until lists are written there, its manifest says that they are not complete."""
    for name in (MANIFEST, *FILES.values()):
        remove_temporaries(folder, name)
    replace(manifest, files={}).save(folder)


def write_lists(
    folder: Path,
    manifest: Manifest,
    forward: ListRows,
    reverse: ListRows | None = None,
    text_image: NDArray[Any] | None = None,  # (M,)
) -> Manifest:
    """Write the lists into a folder that `begin_lists` claimed; indices are int32 where they fit, else int64."""
    files = _write_rows(folder, "", forward)
    if reverse is not None:
        files |= _write_rows(folder, "reverse_", reverse)
    if text_image is not None:
        index = torch.from_numpy(text_image).long()
        files["text_image"] = write_array(folder / FILES["text_image"], index.shape, "<i8", [index])
    written = replace(manifest, files=files)
    written.save(folder)
    return written


def _write_rows(folder: Path, prefix: str, lists: ListRows) -> dict[str, Any]:
    narrow = lists.others <= _MOST_INT32
    names = f"{prefix}indices", f"{prefix}scores"
    paths = [folder / FILES[name] for name in names]
    entries: dict[str, Any] = {}

    def fill(indices_file: BinaryIO, scores_file: BinaryIO) -> None:
        writers = (
            ArrayWriter(indices_file, lists.shape, "<i4" if narrow else "<i8"),
            ArrayWriter(scores_file, lists.shape, "<f4"),
        )
        for indices, scores in lists.blocks:
            writers[0].write(indices.int() if narrow else indices.long())
            writers[1].write(scores)
        for name, path, writer in zip(names, paths, writers):
            entries[name] = writer.describe(path)

    write_atomically(paths[0], lambda first: write_atomically(paths[1], lambda second: fill(first, second)))
    return entries
