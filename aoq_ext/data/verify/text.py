"""Checks of captions, whatever file they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aoq_ext._files import visible
from aoq_ext.data.captions import LITERAL_CURE, UTF8_CURE, caption_lines
from aoq_ext.data.released_vocabulary import read_vocabulary
from aoq_ext.data.verify.findings import Finding, VerifyReport, counted
from aoq_ext.data.vocabulary import Vocabulary, is_bytes_literal, tokenize

_LEAST_COVERAGE = 0.9


def decoded_captions(report: VerifyReport, path: Path) -> list[str]:
    """The captions in a file; what is not UTF-8 is found and replaced."""
    captions, wrong = [], []
    for number, line in caption_lines(path):
        try:
            captions.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            captions.append(line.decode("utf-8", errors="replace"))
            wrong.append(number)
    if wrong:
        got = f"{counted(len(wrong), 'line')} that cannot be decoded, the first line {wrong[0]}"
        report.add(path.name, "encoding", "UTF-8", got, UTF8_CURE, len(wrong))
    return captions


def check_captions(
    report: VerifyReport, where: str, captions: Sequence[str], caption_image: NDArray[np.int64] | None, place: str
) -> Counter[str]:
    """Findings and notes about captions; ``place`` is what a number counts. Returns how often each word occurs."""
    literals = [number for number, caption in enumerate(captions, start=1) if is_bytes_literal(caption)]
    if literals:
        got = (
            f"{counted(len(literals), 'caption')} printed from bytes, the first {place} {literals[0]}: "
            f"{captions[literals[0] - 1]:.60}"
        )
        report.add(where, "bytes-literals", "text", got, LITERAL_CURE, len(literals))
    marked = set(literals)
    words = [[] if number in marked else tokenize(caption) for number, caption in enumerate(captions, start=1)]
    empty = [number for number, found in enumerate(words, start=1) if not found and number not in marked]
    if empty:
        got = f"{counted(len(empty), 'caption')} without a word, the first {place} {empty[0]}"
        cure = "write a caption there, or take the image out with all its captions and its features"
        report.add(where, "empty-captions", "words in every caption", got, cure, len(empty))
    if caption_image is not None:
        _note_repeats(report, where, words, caption_image)
    return Counter(word for found in words for word in found)


def _note_repeats(report: VerifyReport, where: str, words: list[list[str]], caption_image: NDArray[np.int64]) -> None:
    """Captions that other images have too: right answers that count as wrong."""
    images: dict[tuple[str, ...], set[int]] = {}
    for found, image in zip(words, caption_image.tolist()):
        if found:
            images.setdefault(tuple(found), set()).add(image)
    repeated = sum(len(images.get(tuple(found), ())) > 1 for found in words)
    if repeated:
        report.notes.append(
            f"{where}: {counted(repeated, 'caption')} of {len(words):,} also describe another image, word for word; "
            f"evaluation counts that image as a wrong answer"
        )


def check_coverage(report: VerifyReport, where: str, words: Counter[str], vocabulary: Vocabulary) -> None:
    total = words.total()
    known = set(vocabulary.words)
    covered = sum(count for word, count in words.items() if word in known) / max(1, total)
    different = sum(word in known for word in words)
    report.notes.append(
        f"{where}: the vocabulary has {100 * covered:.2f} % of {total:,} words, {different:,} of {len(words):,} "
        f"different ones"
    )
    if covered < _LEAST_COVERAGE:
        report.add(
            where,
            "vocabulary-coverage",
            f"a vocabulary with at least {100 * _LEAST_COVERAGE:.0f} % of the words",
            f"{100 * covered:.1f} %",
            "take the vocabulary of this data set, or build one with Vocabulary.build(captions)",
        )


def open_vocabulary(report: VerifyReport, folder: Path, given: str | Path | None) -> Vocabulary | None:
    """The vocabulary given, or the only one in the folder; what is wrong with it is a finding."""
    found = visible(folder, "*_vocab.*") if given is None else [Path(given)]
    if given is None and len(found) != 1:
        return None
    try:
        return read_vocabulary(found[0])
    except (OSError, ValueError) as error:
        report.findings.append(Finding.of_error(error, found[0].name, "vocabulary"))
        return None


def unknown_splits(splits: Sequence[str] | None, found: Sequence[str]) -> None:
    for split in splits or ():
        if split not in found:
            raise ValueError(f"splits: expected some of {', '.join(found) or 'none'}, got {split!r}")
