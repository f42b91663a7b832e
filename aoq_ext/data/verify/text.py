"""Checks of captions, whatever file they come from."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aoq_ext._files import visible
from aoq_ext._scalars import as_strings
from aoq_ext.data.captions import LITERAL_CURE, UTF8_CURE, caption_lines
from aoq_ext.data.released_vocabulary import read_vocabulary
from aoq_ext.data.verify.findings import Finding, VerifyReport, counted
from aoq_ext.data.vocabulary import Vocabulary, is_bytes_literal, tokenize

_LEAST_COVERAGE = 0.9
# Thai, Lao, Myanmar, Khmer; kana and Chinese characters. Their words are shorter than this, on the whole.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
_LONGEST_WORDS = 8


def decoded_captions(report: VerifyReport, path: Path) -> list[str]:
    """The captions in a file; what is not UTF-8 is found and replaced."""
    lines = list(caption_lines(path))
    captions = [line.decode("utf-8", errors="replace") for line in lines]
    wrong = [number for number, line in enumerate(lines, start=1) if captions[number - 1].encode() != line]
    if wrong:
        got = f"{counted(len(wrong), 'line')} that cannot be decoded, the first line {wrong[0]}"
        report.add(path.name, "encoding", "UTF-8", got, UTF8_CURE, len(wrong))
    return captions


def check_captions(
    report: VerifyReport, where: str, captions: Sequence[str], caption_image: NDArray[np.int64] | None, place: str
) -> Counter[str]:
    """Findings and notes about captions; ``place`` is what a number counts. Returns how often each word occurs."""
    if literals := [number for number, caption in enumerate(captions, start=1) if is_bytes_literal(caption)]:
        got = (
            f"{counted(len(literals), 'caption')} printed from bytes, the first {place} {literals[0]}: "
            f"{captions[literals[0] - 1]:.60}"
        )
        report.add(where, "bytes-literals", "text", got, LITERAL_CURE, len(literals))
    marked = set(literals)
    words = [[] if number in marked else tokenize(caption) for number, caption in enumerate(captions, start=1)]
    if empty := [number for number, found in enumerate(words, start=1) if not found and number not in marked]:
        got = f"{counted(len(empty), 'caption')} without a word, the first {place} {empty[0]}"
        cure = "write a caption there, or take the image out with all its captions and its features"
        report.add(where, "empty-captions", "words in every caption", got, cure, len(empty))
    if caption_image is not None:
        _note_repeats(report, where, words, caption_image)
    _note_unsegmented(report, where, words)
    return Counter(word for found in words for word in found)


def _note_repeats(report: VerifyReport, where: str, words: list[list[str]], caption_image: NDArray[np.int64]) -> None:
    """Captions that other images have too: right answers that count as wrong."""
    images: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
    for found, image in zip(words, caption_image.tolist()):
        images[tuple(found)].add(image)
    repeated = sum(len(images[tuple(found)]) > 1 for found in words if found)
    if repeated:
        report.notes.append(
            f"{where}: {counted(repeated, 'caption')} of {len(words):,} also describe another image, word for word; "
            f"evaluation counts that image as a wrong answer"
        )


def _note_unsegmented(report: VerifyReport, where: str, words: list[list[str]]) -> None:
    """Captions of scripts that put no spaces between words, each of which is one word or a few."""
    runs = [[word for word in found if _UNSPACED.match(word)] for found in words]
    lengths = [len(word) for found in runs for word in found]
    if lengths and sum(lengths) / len(lengths) > _LONGEST_WORDS:
        report.notes.append(
            f"{where}: {counted(sum(map(bool, runs)), 'caption')} of {len(words):,} are in a script without spaces "
            f"between words, and a sentence counts as one word, such as {next(filter(None, runs))[0]:.30}; put spaces "
            f"between the words with a segmenter of the language, or name a tokenizer that needs none (data.tokenizer)"
        )


def check_coverage(report: VerifyReport, where: str, words: Counter[str], vocabulary: Vocabulary | None) -> None:
    """How many of the words the vocabulary has, where there are any of both."""
    if vocabulary is None or not words:
        return
    known = words.keys() & set(vocabulary.words)
    covered = sum(words[word] for word in known) / words.total()
    report.notes.append(
        f"{where}: the vocabulary has {100 * covered:.2f} % of {words.total():,} words, {len(known):,} of "
        f"{len(words):,} different ones"
    )
    if covered < _LEAST_COVERAGE:
        expected = f"a vocabulary with at least {100 * _LEAST_COVERAGE:.0f} % of the words"
        cure = "take the vocabulary of this data set, or build one with Vocabulary.build(captions)"
        report.add(where, "vocabulary-coverage", expected, f"{100 * covered:.1f} %", cure)


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


def chosen_splits(splits: Sequence[str] | None, found: Sequence[str]) -> Sequence[str]:
    """The splits asked for, by default those found; ValueError for others."""
    for split in as_strings("splits", splits or ()):
        if split not in found:
            raise ValueError(f"splits: expected some of {', '.join(found) or 'none'}, got {split!r}")
    return splits or found
