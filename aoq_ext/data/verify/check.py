"""One call for every format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aoq_ext._files import visible
from aoq_ext._scalars import as_positive
from aoq_ext.data.precomputed import CAPTIONS_PER_IMAGE, splits_in
from aoq_ext.data.verify.findings import Manner, Progress, VerifyReport
from aoq_ext.data.verify.karpathy import check_karpathy
from aoq_ext.data.verify.precomputed import check_precomputed
from aoq_ext.data.verify.text import open_vocabulary

KINDS = ("precomputed", "karpathy")


def verify(
    path: str | Path,
    kind: str | None = None,
    *,
    splits: Sequence[str] | None = None,
    vocabulary: str | Path | None = None,
    pictures: str | Path | None = None,
    captions_per_image: int = CAPTIONS_PER_IMAGE,
    quick: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Read a data set and say what is wrong with it.

    Args:
        path: its folder, or a Karpathy JSON file.
        kind: one of `KINDS`; by default what the folder looks like.
        splits: those to look at; by default all.
        vocabulary: a JSON vocabulary whose coverage of the captions is measured; by default ``*_vocab.json`` in the
            folder, if there is one.
        pictures: where the pictures of a Karpathy file lie; by default looked for beside it.
        captions_per_image: how many captions an image has, or, in a Karpathy file, at least.
        quick: look into a sample of the features or pictures; by default into all of them.
        progress: called while files are read.
    """
    path = Path(path)
    if kind is None:
        kind = detect_kind(path)
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if not path.exists():
        raise ValueError(f"path: expected a folder or a dataset_*.json, got {path}, which does not exist")
    if kind != "karpathy" and pictures is not None:
        raise ValueError(f"pictures: expected none for precomputed features, got {pictures}")
    manner = Manner(
        as_positive("captions_per_image", captions_per_image), quick, progress or (lambda what, done, total: None)
    )
    report = VerifyReport(str(path), kind)
    words = open_vocabulary(report, path.parent if path.is_file() else path, vocabulary)
    if kind == "karpathy":
        check_karpathy(report, path, splits, words, pictures, manner)
    else:
        check_precomputed(report, path, splits, words, manner)
    return report


def detect_kind(path: str | Path) -> str:
    """One of `KINDS`, by the names of the files; ValueError when they are of neither."""
    path = Path(path)
    if path.suffix == ".json" and path.is_file():
        return "karpathy"
    precomputed, karpathy = bool(splits_in(path)), bool(visible(path, "dataset_*.json"))
    if precomputed == karpathy:
        state = "both" if precomputed else ("neither" if path.is_dir() else "no such folder")
        raise ValueError(
            f"path: expected a folder with either train_ims.npy and train_caps.txt (precomputed) or dataset_*.json "
            f"(karpathy), got {state} in {path}; say which with kind (--kind)"
        )
    return "precomputed" if precomputed else "karpathy"
