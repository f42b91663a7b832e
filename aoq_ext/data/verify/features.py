"""Checks of a file of features, read once from end to end or at a sample of places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoq_ext.data.image_rows import sampled_rows
from aoq_ext.data.verify.findings import Progress, VerifyReport, counted

_READ_BYTES = 1 << 26
_SAMPLED_IMAGES = 256


@dataclass
class FeatureCounts:
    """What reading the rows showed."""

    read: int = 0
    not_finite: list[int] = field(default_factory=list)
    zero: list[int] = field(default_factory=list)
    unlike: list[int] = field(default_factory=list)  # images whose rows should be equal and are not
    images: set[bytes] = field(default_factory=set)  # hashes
    repeated: int = 0  # images equal to an earlier one


def count_features(features: NDArray[Any], repeats: int, quick: bool, progress: Progress, label: str) -> FeatureCounts:
    """features: (N, ...) floating point, each image ``repeats`` times in a row"""
    counts = FeatureCounts()
    for first, rows in _blocks(features, repeats, quick):
        flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
        counts.not_finite += (first + np.flatnonzero(~np.isfinite(flat).all(axis=1))).tolist()
        counts.zero += (first + np.flatnonzero(~flat.any(axis=1))).tolist()
        hashes = [hashlib.blake2b(row.data, digest_size=16).digest() for row in flat]
        for start in range(0, len(hashes), repeats):
            if len(set(hashes[start : start + repeats])) > 1:
                counts.unlike.append((first + start) // repeats)
            counts.repeated += hashes[start] in counts.images
            counts.images.add(hashes[start])
        counts.read += len(rows)
        progress(label, first + len(rows), len(features))
    return counts


def report_features(report: VerifyReport, where: str, counts: FeatureCounts, repeats: int) -> None:
    again = "extract these images' features again"
    if counts.not_finite:
        got = f"NaN or infinity in {counted(len(counts.not_finite), 'row')}, the first row {counts.not_finite[0]}"
        report.add(where, "features-not-finite", "finite features", got, again, len(counts.not_finite))
    if counts.zero:
        got = f"{counted(len(counts.zero), 'row')} of nothing but zeros, the first row {counts.zero[0]}"
        report.add(where, "features-zero", "features other than zero", got, again, len(counts.zero))
    if counts.unlike:
        got = (
            f"{counted(len(counts.unlike), 'image')} with different rows, the first rows "
            f"{counts.unlike[0] * repeats} to {counts.unlike[0] * repeats + repeats - 1}"
        )
        cure = (
            f"{other_count(1)}; if it has not, take features and captions from the same release, since these are out "
            f"of step"
        )
        expected = f"each image {repeats} times, as there are as many rows as captions"
        report.add(where, "features-not-repeated", expected, got, cure, len(counts.unlike))
    if counts.repeated:
        report.notes.append(f"{where}: {counted(counts.repeated, 'image')} with the features of an earlier image")


def other_count(captions: int) -> str:
    """What to do where an image has so many captions, as the numbers of rows and captions suggest."""
    return (
        f"where every image has {counted(captions, 'caption')}, pass --captions-per-image {captions}, and "
        f"captions_per_image={captions} to load_precomputed (data.args of a configuration)"
    )


def _blocks(features: NDArray[Any], repeats: int, quick: bool) -> Iterator[tuple[int, NDArray[Any]]]:
    """Where a block starts, and its rows: whole images."""
    if quick:
        for image in sampled_rows(len(features) // repeats, _SAMPLED_IMAGES):
            yield image * repeats, features[image * repeats : (image + 1) * repeats]
        return
    row_bytes = max(1, features.nbytes // max(1, len(features)))
    step = max(1, _READ_BYTES // (row_bytes * repeats)) * repeats
    for first in range(0, len(features), step):
        yield first, features[first : first + step]
