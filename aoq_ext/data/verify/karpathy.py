"""Check a Karpathy-split JSON file and its pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from aoq_ext._machine import available_cores
from aoq_ext.data.errors import DataError
from aoq_ext.data.image_rows import sampled_rows
from aoq_ext.data.karpathy import Entry, find_json, find_pictures, missing_pictures, read_entries
from aoq_ext.data.pictures import PictureRangeError, open_picture
from aoq_ext.data.verify.findings import Finding, Progress, SplitSummary, VerifyReport, counted
from aoq_ext.data.verify.text import check_captions, check_coverage, open_vocabulary, unknown_splits

_SAMPLED_PICTURES = 100
_DECODED_AT_ONCE = 256
_MOST_THREADS = 8
_MOST_NAMED = 3


def verify_karpathy(
    path: Path,
    splits: Sequence[str] | None,
    vocabulary: str | Path | None,
    pictures: str | Path | None,
    captions_per_image: int,
    quick: bool,
    progress: Progress,
) -> VerifyReport:
    report = VerifyReport(str(path), "karpathy")
    folder = path.parent if path.is_file() else path
    try:
        file = path if path.is_file() else find_json(path)
        entries = read_entries(file)
    except DataError as error:
        report.findings.append(Finding.of_error(error, path.name, "json"))
        return report
    found = sorted({entry.split for entry in entries})
    unknown_splits(splits, found)
    _check_unique(report, file, entries)
    words = open_vocabulary(report, folder, vocabulary)
    for split in splits or found:
        chosen = [entry for entry in entries if entry.split == split]
        captions = [caption for entry in chosen for caption in entry.captions]
        summary = SplitSummary(split, len(chosen), len(captions), dtype="uint8", layout=_layout(chosen))
        report.splits.append(summary)
        images = np.repeat(np.arange(len(chosen)), [len(entry.captions) for entry in chosen])
        seen = check_captions(report, split, captions, images, "sentence")
        if words is not None:
            check_coverage(report, split, seen, words)
        _check_counts(report, split, chosen, captions_per_image)
        where = _picture_folder(report, split, chosen, folder, file, pictures)
        if where is not None:
            _check_pictures(report, split, chosen, where, quick, progress)
    return report


def _layout(entries: list[Entry]) -> str:
    counts = [len(entry.captions) for entry in entries]
    low, high = min(counts), max(counts)
    return f"{low} captions each" if low == high else f"{low} to {high} captions each"


def _check_counts(report: VerifyReport, split: str, entries: list[Entry], least: int) -> None:
    few = [entry for entry in entries if len(entry.captions) < least]
    if few:
        got = f"{counted(len(few), 'image')} with fewer, such as {few[0].path} with {len(few[0].captions)}"
        cure = (
            f"remove images without any; for fewer than {least} of each, pass captions_per_image (null: all) to "
            f"load_karpathy, and --captions-per-image here"
        )
        expected = f"at least {counted(least, 'caption')} for each image"
        report.add(split, "captions-per-image", expected, got, cure, len(few))


def _check_unique(report: VerifyReport, file: Path, entries: list[Entry]) -> None:
    times = Counter(entry.path for entry in entries)
    repeated = [path for path, count in times.items() if count > 1]
    if repeated:
        split = {path: sorted({entry.split for entry in entries if entry.path == path}) for path in repeated[:1]}
        got = f"{counted(len(repeated), 'picture')} listed more often, such as {repeated[0]} in {split[repeated[0]]}"
        cure = "remove all entries of a picture but one"
        report.add(file.name, "pictures-repeated", "each picture once, in one split", got, cure, len(repeated))


def _picture_folder(
    report: VerifyReport, split: str, entries: list[Entry], root: Path, file: Path, given: str | Path | None
) -> Path | None:
    paths = [entry.path for entry in entries]
    try:
        return find_pictures(root, file, paths, given)
    except DataError as error:
        cure = (
            "unpack the pictures beside the JSON file, with the folders (train2014, val2014) that it names, or name "
            "their folder with --pictures"
        )
        got = Finding.of_error(error, split, "").got
        report.add(split, "pictures-missing", f"a folder with {paths[0]}", got, cure, len(paths))
        return None


def _check_pictures(
    report: VerifyReport, split: str, entries: list[Entry], folder: Path, quick: bool, progress: Progress
) -> None:
    paths = [entry.path for entry in entries]
    missing = missing_pictures(folder, paths)
    if missing:
        got = f"{counted(len(missing), 'picture')} missing in {folder}, such as {', '.join(missing[:_MOST_NAMED])}"
        report.add(
            split, "pictures-missing", "a picture for every image", got, "download or unpack them again", len(missing)
        )
    gone = set(missing)
    there = [path for path in paths if path not in gone]
    if quick:
        there = [there[row] for row in sampled_rows(len(there), _SAMPLED_PICTURES)]
        report.notes.append(f"{split}: {counted(len(there), 'picture')} were decoded (quick)")
    refused = _refused(folder, there, progress, f"decoding {split}")
    for what, expected, state, cure in (
        ("damaged", "pictures that Pillow can decode", "that cannot be decoded", "download them again"),
        ("range", "pictures of 8 or 16 bits", "without a defined range", "save them as 8-bit pictures"),
    ):
        if names := [name for name, without_range in refused if without_range == (what == "range")]:
            got = f"{counted(len(names), 'picture')} {state}, such as {', '.join(names[:_MOST_NAMED])}"
            report.add(split, f"pictures-{what}", expected, got, cure, len(names))


def _refused(folder: Path, paths: list[str], progress: Progress, label: str) -> list[tuple[str, bool]]:
    """Pictures that cannot be used, and whether that is for want of a defined range."""

    def try_out(path: str) -> bool | None:
        try:
            open_picture(str(folder / path))
        except DataError as error:
            return isinstance(error, PictureRangeError)
        return None

    found = []
    with ThreadPoolExecutor(min(_MOST_THREADS, available_cores())) as pool:
        for first in range(0, len(paths), _DECODED_AT_ONCE):
            part = paths[first : first + _DECODED_AT_ONCE]
            found += [(path, without) for path, without in zip(part, pool.map(try_out, part)) if without is not None]
            progress(label, first + len(part), len(paths))
    return found
