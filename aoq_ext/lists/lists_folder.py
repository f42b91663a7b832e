"""Folders of mined lists, of either kind that ``aoq mine`` writes: with a run, or between files."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._arrays import hash_file
from .._sources import TensorSource
from .folder import check_out, check_unclaimed
from .manifest import MANIFEST
from .manifest import fingerprint as fingerprint_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 2
FILES = {  # the arrays of a folder, by their name in its manifest; the last three may be missing
    "texts": "hard_texts.npy",
    "images": "hard_images.npy",
    "text_scores": "text_scores.npy",
    "image_scores": "image_scores.npy",
    "text_image": "text_image.npy",
}
_NEEDED = ("texts", "images")
SAVING = ".saving"  # there while lists are written: files without a manifest are then ours


@dataclass(frozen=True)
class MinedFrom:
    """Whose weights the lists are hard for; None where that is not known."""

    run: str | None = None
    epoch: int | None = None  # epochs (or steps, if all ages are in steps) that the weights had seen
    weights: str | None = None  # their fingerprint
    embeddings: str | None = None  # the fingerprint of the embeddings that were mined

    def __str__(self) -> str:
        weights = "weights of unknown age" if self.epoch is None else f"weights of epoch {self.epoch}"
        return f"{weights} of {'an unknown run' if self.run is None else self.run}"


@dataclass(frozen=True)
class ListsFolder:
    """Lists in a folder, memory-mapped."""

    texts: Tensor  # (N, k)
    images: Tensor  # (M, k')
    text_image: Tensor | None  # (M,)
    fingerprint: str
    mined_from: MinedFrom


def open_lists(folder: Path, count: int | None, verify: bool) -> ListsFolder:
    """Lists of either kind; ``count``: texts there must be."""
    if "problem" in _read_json(folder):
        return _open_between_files(folder, count, verify)
    manifest, arrays = read_lists(folder, verify)
    texts, images, text_image = (
        torch.from_numpy(arrays[name]) if name in arrays else None for name in ("texts", "images", "text_image")
    )
    assert texts is not None and images is not None
    return ListsFolder(texts, images, text_image, manifest["data_fingerprint"], _origin_of(manifest))


def _open_between_files(folder: Path, count: int | None, verify: bool) -> ListsFolder:
    import numpy as np

    from .files import MinedFiles

    mined = MinedFiles.load(folder, checksums=verify)
    if mined.reverse_indices is None:
        raise ValueError(f"path must hold lists in both directions (`aoq mine --both`), got {folder} with one")
    # Copy on write: torch warns of arrays it may not write to. Nothing here writes.
    names = "indices", "reverse_indices"
    lists = [torch.from_numpy(np.load(mined.folder / f"{name}.npy", mmap_mode="c")) for name in names]
    sides = ["anchors", "candidates"]
    if count == len(mined.indices) != len(mined.reverse_indices):
        lists.reverse()
        sides.reverse()
    described = (mined.problem[side] for side in sides)
    known = _combine(*((side["dtype"], side["shape"], side["sha256"]) for side in described))
    return ListsFolder(lists[0], lists[1], None, known, MinedFrom(embeddings=known))


def _origin_of(manifest: dict[str, Any]) -> MinedFrom:
    """What the manifest of lists that were mined with a run says of it."""
    return MinedFrom(
        manifest.get("run"),
        manifest.get("epoch"),
        manifest["weights_fingerprint"],
        manifest.get("embeddings_fingerprint"),
    )


def fingerprint_embeddings(
    images: Tensor,  # (N, D)
    texts: Tensor,  # (M, D)
) -> str:
    """A hash of embeddings: equal for equal dtypes, shapes and bits, on whatever device and with whatever strides."""
    return _combine(
        *(
            (str(rows.dtype), list(rows.shape), fingerprint_rows(TensorSource(rows), None, {}))
            for rows in (images, texts)
        )
    )


def _combine(*sides: tuple[str, list[int], str]) -> str:
    """dtype, shape and sha256 of images and of texts"""
    parts = [[dtype.removeprefix("torch."), shape, digest] for dtype, shape, digest in sides]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_replaceable(folder: str | os.PathLike[str], name: str) -> dict[str, Any] | None:
    """The manifest of the lists of a run that stand where others are to go, None without any; refuses what is not ours.

    What is damaged of ours may be replaced, but not a manifest that cannot be read as one of a run's lists.
    """
    path = check_out(folder, name)
    if not (path / MANIFEST).exists():
        if not (path / SAVING).exists():
            check_unclaimed(path, FILES.values(), name)
        return None
    try:
        return _read_manifest(path)
    except ValueError as error:
        raise ValueError(
            f"{name} must not hold what is of others, got {path} with a {MANIFEST} of something else than a run's "
            "lists; mine into another folder"
        ) from error


def read_lists(folder: Path, verify: bool = True) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The manifest of a folder of lists, and its arrays, memory-mapped; refuses what is missing or damaged."""
    import numpy as np

    manifest = _read_manifest(folder)
    arrays: dict[str, NDArray[Any]] = {}
    for name in FILES:
        if name not in manifest:
            continue
        described = manifest[name]
        path = folder / described["file"]
        if not path.is_file():
            raise ValueError(f"{path} is missing; mine again")
        if verify and (found := hash_file(path)) != described["sha256"]:
            raise ValueError(
                f"{path} is not the file its manifest describes "
                f"(expected sha256 {described['sha256'][:12]}..., got {found[:12]}...); mine again"
            )
        try:
            # Copy on write: torch warns of arrays it may not write to. Nothing here writes.
            arrays[name] = np.load(path, mmap_mode="c")
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} cannot be read as an array ({error}); mine again") from error
        _check_array(path, arrays[name], described, name, np)
    return manifest, arrays


def _check_array(path: Path, array: NDArray[Any], described: dict[str, Any], name: str, np: Any) -> None:
    kind = np.floating if name.endswith("scores") else np.signedinteger
    if not np.issubdtype(array.dtype, kind) or list(array.shape) != described["shape"]:
        raise ValueError(
            f"{path}: expected {kind.__name__} numbers of shape {described['shape']} as in its manifest, "
            f"got {array.dtype} of shape {list(array.shape)}; mine again"
        )


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"expected a folder with a {MANIFEST} (`aoq mine` writes it), got {folder}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); mine again") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"expected an object in {path}, got a {type(manifest).__name__}; mine again")
    return manifest


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the lists in ``folder``, with every entry that is read later."""
    path = folder / MANIFEST
    manifest = _read_json(folder)
    if "problem" in manifest:
        raise ValueError(
            f"expected lists mined with a run (`aoq mine --run`), got lists mined between files in {folder}"
        )
    if manifest.get("format") not in range(1, FORMAT + 1):
        raise ValueError(f"expected format 1 to {FORMAT} in {path}, got {manifest.get('format')}")
    for name in ("data_fingerprint", "weights_fingerprint"):
        _require(path, name, manifest.get(name), str)
    for name, kind in (("run", str), ("epoch", int), ("embeddings_fingerprint", str), ("rules", dict)):
        if manifest.get(name) is not None:
            _require(path, name, manifest[name], kind)
    for name in FILES:
        if name in manifest or name in _NEEDED:
            described = _require(path, name, manifest.get(name), dict)
            for key, expected in (("file", str), ("sha256", str), ("shape", list)):
                _require(path, f"{name}.{key}", described.get(key), expected)
    return manifest


def _require(path: Path, name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {str: "a text", int: "a number", dict: "an object", list: "a list"}
        raise ValueError(f"expected {words[kind]} as {name} in {path}, got {value!r:.60}; mine again")
    return value
