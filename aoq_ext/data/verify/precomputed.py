"""Check a folder of features extracted beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aoq_ext.data.captions import caption_lines
from aoq_ext.data.errors import DataError
from aoq_ext.data.precomputed import CAPTIONS, FEATURES, IDS, open_array, rows_per_image, splits_in
from aoq_ext.data.verify.features import check_features, other_count
from aoq_ext.data.verify.findings import Finding, Manner, SplitSummary, VerifyReport, counted
from aoq_ext.data.verify.text import check_captions, check_coverage, chosen_splits, decoded_captions
from aoq_ext.data.vocabulary import Vocabulary

_CONVERT = "convert it with the script in docs/data.md"
_SEPARATE = "take them out of train, or take all splits from one release"
_EVALUATED = ("dev", "test", "testall")
_MOST_SHARED = 0.01  # of an evaluation split's images


def check_precomputed(
    report: VerifyReport, path: Path, splits: Sequence[str] | None, vocabulary: Vocabulary | None, manner: Manner
) -> None:
    found = splits_in(path)
    if not found:
        report.add(str(path), "no-splits", f"files such as train{FEATURES}", "none", "name the folder that has them")
    hashes: dict[str, set[bytes]] = {}
    for split in chosen_splits(splits, found):
        summary = SplitSummary(split)
        report.splits.append(summary)
        seen = _check_split_captions(report, path, summary, manner.captions_per_image)
        check_coverage(report, split, seen, vocabulary)
        hashes[split] = _check_split_features(report, path, summary, manner)
        _check_ids(report, path, summary)
    _compare_shapes(report)
    _compare_ids(report, path)
    if not manner.quick:
        _compare_features(report, hashes)


def _check_split_captions(report: VerifyReport, folder: Path, summary: SplitSummary, each: int) -> Counter[str]:
    path = folder / f"{summary.name}{CAPTIONS}"
    if not path.is_file():
        report.add(path.name, "missing-file", "a caption a line", "no such file", "copy it from the same release")
        return Counter()
    captions = decoded_captions(report, path)
    summary.captions = len(captions)
    images = np.arange(len(captions), dtype=np.int64) // each
    return check_captions(report, path.name, captions, images, "line")


def _check_split_features(report: VerifyReport, folder: Path, summary: SplitSummary, manner: Manner) -> set[bytes]:
    """-> a hash of every image that was read"""
    path = folder / f"{summary.name}{FEATURES}"
    try:
        features = open_array(path)
    except DataError as error:
        report.findings.append(Finding.of_error(error, path.name, "features-file"))
        return set()
    summary.dtype, summary.shape = str(features.dtype), features.shape[1:]
    if features.dtype != np.float32:
        report.add(path.name, "features-dtype", "float32", str(features.dtype), _CONVERT)
    if features.ndim not in (2, 3):
        shape = "(N, regions, D) or (N, D)"
        report.add(path.name, "features-shape", shape, str(features.shape), _CONVERT)
        return set()
    if not len(features):
        report.add(path.name, "features-none", "a row for every image", "0 rows", "extract them, or remove the split")
    repeats = _layout(report, path.name, summary, len(features), manner.captions_per_image)
    if features.dtype.kind != "f":
        return set()
    return check_features(report, path.name, features, repeats, manner)


def _layout(report: VerifyReport, where: str, summary: SplitSummary, rows: int, each: int) -> int:
    """How many rows an image has; fills in the number of images."""
    summary.images = rows
    if summary.captions is None:
        return 1
    repeats = rows_per_image(rows, summary.captions, each)
    if repeats is None:
        expected = (
            f"{summary.captions / each:g} rows, one for {counted(each, 'caption')} each, or "
            f"{summary.captions}, one a caption"
        )
        cure = "take captions and features of the same release; look for an empty line at the end of the captions"
        if rows and summary.captions % rows == 0:
            cure = f"{other_count(summary.captions // rows)}; if it has not, {cure}"
        report.add(where, "captions-per-image", expected, str(rows), cure)
        summary.images = None  # nobody knows
        return 1
    summary.layout = f"each image {repeats} times" if repeats > 1 else "one row an image"
    summary.images = rows // repeats
    return repeats


def _check_ids(report: VerifyReport, folder: Path, summary: SplitSummary) -> None:
    path = folder / f"{summary.name}{IDS}"
    if not path.is_file() or summary.images is None or summary.captions is None:
        return
    count = len(list(caption_lines(path)))
    if count not in (summary.images, summary.captions):
        expected = f"{summary.images} lines, one an image, or {summary.captions}, one a caption"
        report.add(path.name, "ids", expected, str(count), "take the file of the same release, or remove it")


def _compare_shapes(report: VerifyReport) -> None:
    shapes = {summary.name: summary.shape for summary in report.splits if summary.shape is not None}
    if len(set(shapes.values())) > 1:
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        cure = "take all splits from one release: a model reads one shape"
        report.add("all splits", "shapes-differ", "the same shape in all splits", got, cure)


def _compare_ids(report: VerifyReport, folder: Path) -> None:
    """Training images must not be evaluated on; that test is the first part of testall is as it should be.

    Ids that merely number the images of each split say nothing about this.
    """
    ids = {
        summary.name: set(caption_lines(path))
        for summary in report.splits
        if (path := folder / f"{summary.name}{IDS}").is_file()
    }
    train = ids.get("train", set())
    if train == {str(number).encode() for number in range(len(train))}:
        return
    for split in _EVALUATED:
        if shared := train & ids.get(split, set()):
            got = f"{counted(len(shared), 'id')} in both, such as {sorted(shared)[0].decode('utf-8', 'replace')}"
            report.add(f"{split}{IDS}", "splits-overlap", "no id of train", got, _SEPARATE, len(shared))


def _compare_features(report: VerifyReport, hashes: dict[str, set[bytes]]) -> None:
    """A few pictures are in these data sets twice; a split that was copied has many."""
    train = hashes.get("train", set())
    for split in _EVALUATED:
        evaluated = hashes.get(split, set())
        if not (shared := len(train & evaluated)):
            continue
        got = f"{counted(shared, 'image')} with the features of a training image"
        if shared > _MOST_SHARED * len(evaluated):
            report.add(f"{split}{FEATURES}", "features-overlap", "other images than in train", got, _SEPARATE, shared)
        else:
            report.notes.append(f"{split}{FEATURES}: {got}")
