"""Checks of a file of features, read once from end to end or at a sample of places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoq_ext.data.image_rows import sampled_rows
from aoq_ext.data.verify.findings import Manner, VerifyReport, counted

_READ_BYTES = 1 << 26
_SAMPLED_IMAGES = 256


def check_features(
    report: VerifyReport, where: str, features: NDArray[Any], repeats: int, manner: Manner
) -> set[bytes]:
    """features: (N, ...) floating point, each image ``repeats`` times in a row -> hashes of the images read"""
    not_finite: list[int] = []
    zero: list[int] = []
    unlike: list[int] = []  # images whose rows should be equal and are not
    images: set[bytes] = set()
    repeated = 0  # images equal to an earlier one
    for first, rows in _blocks(features, repeats, manner.quick):
        flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
        not_finite += (first + np.flatnonzero(~np.isfinite(flat).all(axis=1))).tolist()
        zero += (first + np.flatnonzero(~flat.any(axis=1))).tolist()
        hashes = [hashlib.blake2b(row.data, digest_size=16).digest() for row in flat]
        for start in range(0, len(hashes), repeats):
            if len(set(hashes[start : start + repeats])) > 1:
                unlike.append(first + start)
            repeated += hashes[start] in images
            images.add(hashes[start])
        manner.progress(f"reading {where}", first + len(rows), len(features))

    again = "extract these images' features again"
    if not_finite:
        got = f"NaN or infinity in {counted(len(not_finite), 'row')}, the first row {not_finite[0]}"
        report.add(where, "features-not-finite", "finite features", got, again, len(not_finite))
    if zero:
        got = f"{counted(len(zero), 'row')} of nothing but zeros, the first row {zero[0]}"
        report.add(where, "features-zero", "features other than zero", got, again, len(zero))
    if unlike:
        expected = f"each image {repeats} times, as there are as many rows as captions"
        rows_of_first = f"the first rows {unlike[0]} to {unlike[0] + repeats - 1}"
        got = f"{counted(len(unlike), 'image')} with different rows, {rows_of_first}"
        cure = "take features and captions from the same release, since these are out of step"
        cure = f"{other_count(1)}; if it has not, {cure}"
        report.add(where, "features-not-repeated", expected, got, cure, len(unlike))
    if repeated:
        report.notes.append(f"{where}: {counted(repeated, 'image')} with the features of an earlier image")
    if manner.quick:
        report.notes.append(f"{where}: a sample of the rows was read (quick)")
    return images


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
