"""Mined lists, in memory or memory-mapped from the folder that they were written to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from .._arrays import is_intact, update_digest
from .._files import expanded
from .._sources import NpyFile
from .folder import check_out_of_run
from .manifest import MANIFEST, Manifest, MinedFrom
from .writer import ListRows, begin_lists, write_lists

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS_AT_A_TIME = 1 << 14

L = TypeVar("L", bound="MinedLists")


@dataclass(frozen=True, eq=False)
class MinedLists:
    """Lists of negatives. As `HardNegatives`, except that indices are int32 where they fit.

    Attributes:
        manifest: what they were mined from, and by which rules.
        indices: (N, k) rows of the candidates, hardest first; -1 where an anchor has fewer than k negatives.
        scores: (N, k) float32, their scores; -inf where the index is -1.
        reverse_indices: (M, k_reverse) rows of the anchors for every candidate, where both directions were mined.
        reverse_scores: (M, k_reverse) float32.
        text_image: the image of each text, where that is known.
        folder: where they are, if they are on the disk.
    """

    manifest: Manifest
    indices: NDArray[Any]
    scores: NDArray[Any]
    reverse_indices: NDArray[Any] | None = None
    reverse_scores: NDArray[Any] | None = None
    text_image: NDArray[Any] | None = None
    folder: Path | None = None

    def __repr__(self) -> str:
        both = "" if self.reverse_indices is None else f", reverse={self.reverse_indices.shape}"
        where = "" if self.folder is None else f"{str(self.folder)!r}, "
        return f"{type(self).__name__}({where}{self.indices.shape}{both})"

    @property
    def problem(self) -> dict[str, Any]:
        """All that decided the lists."""
        return self.manifest.problem

    @property
    def mined_from(self) -> MinedFrom:
        return self.manifest.mined_from

    @property
    def texts(self) -> NDArray[Any]:
        """(images, k) texts for each image."""
        return self._lists_of("images")[0]

    @property
    def text_scores(self) -> NDArray[Any]:
        """(images, k)"""
        return self._lists_of("images")[1]

    @property
    def images(self) -> NDArray[Any]:
        """(texts, k) images for each text."""
        return self._lists_of("texts")[0]

    @property
    def image_scores(self) -> NDArray[Any]:
        """(texts, k)"""
        return self._lists_of("texts")[1]

    def _lists_of(self, what: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """The lists of the images, or of the texts, whichever of them are the anchors."""
        if (what == "images") == (self.problem["texts"] == "candidates"):
            return self.indices, self.scores
        if self.reverse_indices is None or self.reverse_scores is None:
            raise ValueError(
                f"folder must hold lists in both directions (`aoq mine --both`), got {self.folder} with one"
            )
        return self.reverse_indices, self.reverse_scores

    @classmethod
    def load(cls: type[L], folder: str | Path, *, checksums: bool = True) -> L:
        """Open complete lists, memory-mapped.

        Args:
            checksums: read the files once, and refuse them if they are not what was written.

        Raises:
            FileNotFoundError: the manifest or a file is missing.
            ValueError: the folder is incomplete or damaged, of an earlier format, or of something else.
        """
        folder = expanded(Path(folder))
        manifest = Manifest.load(folder)
        if manifest is None:
            raise FileNotFoundError(
                f"folder must hold mined lists (`aoq mine` writes them), got {folder} without {MANIFEST}"
            )
        if not manifest.complete:
            raise ValueError(f"folder must hold complete lists, got {folder}, whose mining is to be continued")
        arrays = {name: _open(folder, entry, checksums) for name, entry in manifest.files.items()}
        return cls(manifest, folder=folder, **arrays)

    def save(self, folder: str | Path) -> Path:
        """Write lists that were mined with a run; those of a run that are there are replaced, all else is refused."""
        if "weights" not in self.problem or self.reverse_indices is None or self.reverse_scores is None:
            raise ValueError(f"expected lists that were mined with a run, in both directions, to save, got {self}")
        known = check_out_of_run(folder, "folder", overwrite=True)
        folder = expanded(Path(folder))
        begin_lists(folder, self.manifest)
        forward = _rows(self.indices, self.scores, len(self.reverse_indices))
        reverse = _rows(self.reverse_indices, self.reverse_scores, len(self.indices))
        written = write_lists(folder, self.manifest, forward, reverse, self.text_image)
        kept = {entry["file"] for entry in written.files.values()}
        for entry in known.files.values() if known is not None else ():
            if entry["file"] not in kept:
                (folder / entry["file"]).unlink(missing_ok=True)
        return folder

    def fingerprint(self) -> str:
        """A hash of everything that draws depend on."""
        digest = hashlib.sha256((self.problem.get("data") or "").encode())
        for array in (self.texts, self.images):
            digest.update(f"{array.shape}".encode())
            update_digest(digest, array)
        return digest.hexdigest()


def _rows(indices: NDArray[Any], scores: NDArray[Any], others: int) -> ListRows:
    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(indices), _ROWS_AT_A_TIME):
            some = slice(first, first + _ROWS_AT_A_TIME)
            yield torch.from_numpy(indices[some].copy()), torch.from_numpy(scores[some].copy())

    return ListRows(indices.shape, others, blocks())  # type: ignore[arg-type]


def _open(folder: Path, entry: dict[str, Any], checksums: bool) -> NDArray[Any]:
    import numpy as np

    path = folder / entry["file"]
    if not path.is_file():
        raise FileNotFoundError(f"folder must hold {entry['file']}, got {folder} without it; mine again")
    try:
        file = NpyFile.open(path, "folder")
    except ValueError as error:
        raise ValueError(f"{error}; mine again") from error
    if (list(file.shape), file.dtype.str) != (entry["shape"], entry["dtype"]):
        raise ValueError(
            f"folder must hold {entry['file']} of {entry['dtype']} {entry['shape']}, got {file.dtype.str} "
            f"{list(file.shape)}; mine again"
        )
    if checksums and not is_intact(folder, entry):
        raise ValueError(f"folder must hold the {entry['file']} of its manifest, got other content; mine again")
    # Copy on write: torch warns of arrays it may not write to. Nothing here writes.
    array: NDArray[Any] = np.load(path, mmap_mode="c")
    return array
