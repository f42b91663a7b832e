"""Check a Karpathy-split JSON file and its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from aoq_ext._machine import available_cores
from aoq_ext.data.errors import DataError
from aoq_ext.data.image_rows import sampled_rows
from aoq_ext.data.karpathy import Entry, find_json, find_pictures, missing_pictures, read_entries
from aoq_ext.data.pictures import PictureRangeError, open_picture
from aoq_ext.data.verify.findings import Finding, Manner, SplitSummary, VerifyReport, counted
from aoq_ext.data.verify.text import check_captions, check_coverage, chosen_splits
from aoq_ext.data.vocabulary import Vocabulary

_SAMPLED_PICTURES = 100
_DECODED_AT_ONCE = 256
_MOST_THREADS = 8
_MOST_NAMED = 3
# Pictures that cannot be used: the error, the name of the finding, what was expected, what is wrong, the cure.
_REFUSED = (
    (DataError, "damaged", "pictures that Pillow can decode", "that cannot be decoded", "download them again"),
    (PictureRangeError, "range", "pictures of 8 or 16 bits", "without a defined range", "save them as 8-bit pictures"),
)
_UNPACK = (
    "unpack the pictures beside the JSON file, with the folders (train2014, val2014) that it names, or name their "
    "folder with --pictures"
)


def check_karpathy(
    report: VerifyReport,
    path: Path,
    splits: Sequence[str] | None,
    vocabulary: Vocabulary | None,
    pictures: str | Path | None,
    manner: Manner,
) -> None:
    folder = path.parent if path.is_file() else path
    try:
        file = path if path.is_file() else find_json(path)
        entries = read_entries(file)
    except DataError as error:
        report.findings.append(Finding.of_error(error, path.name, "json"))
        return
    _check_unique(report, file, entries)
    for split in chosen_splits(splits, sorted({entry.split for entry in entries})):
        chosen = [entry for entry in entries if entry.split == split]
        captions = [caption for entry in chosen for caption in entry.captions]
        counts = [len(entry.captions) for entry in chosen]
        each = " to ".join(map(str, sorted({min(counts), max(counts)})))
        layout = f"{each} captions each"
        report.splits.append(SplitSummary(split, len(chosen), len(captions), dtype="uint8", layout=layout))
        images = np.repeat(np.arange(len(chosen)), counts)
        seen = check_captions(report, split, captions, images, "sentence")
        check_coverage(report, split, seen, vocabulary)
        _check_counts(report, split, chosen, manner.captions_per_image)
        paths = [entry.path for entry in chosen]
        try:
            where = find_pictures(folder, file, paths, pictures)
        except DataError as error:
            finding = Finding.of_error(error, split, "pictures-missing")
            report.findings.append(replace(finding, cure=_UNPACK, count=len(paths)))
        else:
            _check_pictures(report, split, paths, where, manner)


def _check_counts(report: VerifyReport, split: str, entries: list[Entry], least: int) -> None:
    if few := [entry for entry in entries if len(entry.captions) < least]:
        got = f"{counted(len(few), 'image')} with fewer, such as {few[0].path} with {len(few[0].captions)}"
        cure = (
            f"remove images without any; for fewer than {least} of each, pass captions_per_image (null: all) to "
            f"load_karpathy, and --captions-per-image here"
        )
        expected = f"at least {counted(least, 'caption')} for each image"
        report.add(split, "captions-per-image", expected, got, cure, len(few))


def _check_unique(report: VerifyReport, file: Path, entries: list[Entry]) -> None:
    times = Counter(entry.path for entry in entries)
    if repeated := [path for path, count in times.items() if count > 1]:
        splits = sorted({entry.split for entry in entries if entry.path == repeated[0]})
        got = f"{counted(len(repeated), 'picture')} listed more often, such as {repeated[0]} in {splits}"
        cure = "remove all entries of a picture but one"
        report.add(file.name, "pictures-repeated", "each picture once, in one split", got, cure, len(repeated))


def _check_pictures(report: VerifyReport, split: str, paths: list[str], folder: Path, manner: Manner) -> None:
    if missing := missing_pictures(folder, paths):
        got = f"{counted(len(missing), 'picture')} missing in {folder}, such as {', '.join(missing[:_MOST_NAMED])}"
        cure = "download or unpack them again"
        report.add(split, "pictures-missing", "a picture for every image", got, cure, len(missing))
    gone = set(missing)
    there = [path for path in paths if path not in gone]
    if manner.quick:
        there = [there[row] for row in sampled_rows(len(there), _SAMPLED_PICTURES)]
        report.notes.append(f"{split}: {counted(len(there), 'picture')} were decoded (quick)")
    refused = {path: error for path, error in _decode(folder, there, f"decoding {split}", manner) if error}
    for error, what, expected, state, cure in _REFUSED:
        if names := [path for path, raised in refused.items() if raised is error]:
            got = f"{counted(len(names), 'picture')} {state}, such as {', '.join(names[:_MOST_NAMED])}"
            report.add(split, f"pictures-{what}", expected, got, cure, len(names))


def _decode(folder: Path, paths: list[str], label: str, manner: Manner) -> Iterator[tuple[str, type | None]]:
    """Every picture, and the error that its file raises."""

    def try_out(path: str) -> type | None:
        try:
            open_picture(str(folder / path))
        except DataError as error:
            return type(error)
        return None

    with ThreadPoolExecutor(min(_MOST_THREADS, available_cores())) as pool:
        for first in range(0, len(paths), _DECODED_AT_ONCE):
            part = paths[first : first + _DECODED_AT_ONCE]
            yield from zip(part, pool.map(try_out, part))
            manner.progress(label, first + len(part), len(paths))
