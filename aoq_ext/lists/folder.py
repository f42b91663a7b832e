"""The folder that lists are written to: nothing that is not ours is replaced there, and nobody waits to learn that."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .._files import expanded, nearest_existing, visible
from .._sources import embeddings_file
from ..mining.shards import SHARDS
from .manifest import FILES, MANIFEST, EarlierFormat, Manifest

_OF_SHARDS = re.compile(r"\d{6}-(anchors|candidates)\.npy|listed-\d+\.json|\..*")
_ELSEWHERE = "mine into another folder"


def check_out(given: str | os.PathLike[str], name: str = "out") -> Path:
    """The folder, which need not be there; refuses what cannot be one, and that of a training run."""
    if not os.fspath(given):
        raise ValueError(f"{name} must be a folder, got ''")
    folder: Path = expanded(Path(given))
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise NotADirectoryError(f"{name} must be a folder, got {folder}, where {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"{name} must be a folder that may be written to, got {folder}")
    if (folder / "config.yaml").exists() or visible(folder, "*.ckpt"):
        raise ValueError(f"{name} must not be the folder of a training run, got {folder}; {_ELSEWHERE}")
    return folder


def check_out_of_files(out: str | os.PathLike[str], inputs: Mapping[str, object]) -> Path:
    """The folder that is mined into between files; ``inputs`` are what `mine_to_files` was given, by name."""
    folder = check_out(out)
    written = [file for name, file in FILES.items() if name != "text_image"]
    replaced = [folder / file for file in written if (folder / file).exists()]
    for name, given in inputs.items():
        path = embeddings_file(given)
        if path is not None and path.exists() and any(path.samefile(file) for file in replaced):
            raise FileExistsError(f"out must not hold what is mined, got {folder} with {name}, {path}; {_ELSEWHERE}")
    if not (folder / MANIFEST).exists():
        shards = folder / SHARDS
        others = (
            [path.name for path in shards.iterdir() if not _OF_SHARDS.fullmatch(path.name)] if shards.is_dir() else []
        )
        _check_unclaimed(folder, [*written, *(f"{SHARDS}/{file}" for file in others)], "out")
    return folder


def check_out_of_run(out: str | os.PathLike[str], name: str, overwrite: bool) -> Manifest | None:
    """The manifest of the lists of a run that stand where others are to go, None without any; refuses what is not ours.

    ``overwrite``: also those of an earlier format, whose manifest is then that of unknown lists.
    """
    folder = check_out(out, name)
    try:
        known = Manifest.load(folder, name)
        if known is not None and "weights" not in known.problem:
            raise ValueError(f"{name}: {folder} holds lists mined between files")
    except EarlierFormat as earlier:
        if earlier.files and overwrite:
            return Manifest({}, files={file: {"file": file} for file in earlier.files})
        if earlier.files:
            raise
        raise _of_others(name, folder) from earlier
    except ValueError as error:
        raise _of_others(name, folder) from error
    if known is None:
        _check_unclaimed(folder, FILES.values(), name)
    return known


def _of_others(name: str, folder: Path) -> ValueError:
    return ValueError(
        f"{name} must not hold what is of others, got {folder} with a {MANIFEST} of something else than a run's lists; "
        f"{_ELSEWHERE}"
    )


def _check_unclaimed(folder: Path, files: Iterable[str], name: str) -> None:
    """Refuse a folder with files of these names; for one whose manifest does not vouch for them."""
    for file in files:
        if os.path.lexists(folder / file):
            raise FileExistsError(
                f"{name} must not hold files of others, got {folder} with {file} and without {MANIFEST}; {_ELSEWHERE}"
            )
