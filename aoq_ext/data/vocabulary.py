"""A word-level tokeniser: lower case, split at everything that is no letter, no digit and no mark on one."""

from __future__ import annotations

import json
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from aoq_ext._files import write_bytes_atomically
from aoq_ext._scalars import as_strings

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unk>"
SPECIAL_TOKENS = (PAD, START, END, UNKNOWN)  # indices 0, 1, 2, 3

_ASCII_WORD = re.compile(r"[^\W_]+")
_JOINERS = "\u200c\u200d"  # zero-width: between letters, no space
_WORD = re.compile(rf"[^\W_](?:\S*[^\s{_JOINERS}])?")  # of `_Spaced` text
_BYTES_REPR = re.compile(r"""\s*b(['"]).*\1\s*""", re.DOTALL)
_FORMAT = "aoq_ext.vocabulary/1"


def is_bytes_literal(text: str) -> bool:
    """Whether ``text`` is what Python prints for ``bytes``: ``"b'a cat'"``."""
    return _BYTES_REPR.fullmatch(text) is not None


def tokenize(caption: str) -> list[str]:
    """The lower-case words of a caption: ``"T-shirt, blue"`` gives ``["t", "shirt", "blue"]``.

    Vowel signs and other combining marks belong to the letter before them, and so do the joiners between two letters,
    as in Unicode's word boundaries (UAX #29). Scripts without spaces between words are not segmented.

    A caption that is ``bytes`` is a TypeError, and text that Python printed from ``bytes`` (``"b'a cat'"``) a
    ValueError: such captions put the word "b" in front of every sentence and change every number that is measured.
    """
    if not isinstance(caption, str):
        raise TypeError(f"captions: expected str, got {type(caption).__name__}: {caption!r:.60}; decode it first")
    if is_bytes_literal(caption):
        raise ValueError(
            f"captions: {caption!r:.60} is the printed form of a bytes object, not text; "
            'read the file with open(path, encoding="utf-8") or decode the bytes'
        )
    text = unicodedata.normalize("NFC", caption.lower())
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return _WORD.findall(text.translate(_SPACED))


class _Spaced(dict[int, str]):
    """Every character that belongs to no word as a space; characters are looked up when they first occur."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kept = character.isalnum() or unicodedata.category(character)[0] == "M" or character in _JOINERS
        self[code] = character if kept else " "
        return self[code]


_SPACED = _Spaced()


class Vocabulary:
    """Words and their indices; index 0 pads, 1 starts and 2 ends a caption, 3 stands for unknown words."""

    def __init__(self, words: Iterable[str]) -> None:
        """``words``: every word but the special ones, in index order from 4 on, without repeats."""
        self._words = [*SPECIAL_TOKENS, *as_strings("words", words)]
        self._index = {word: index for index, word in enumerate(self._words)}
        if len(self._index) != len(self._words):
            repeated = next(word for word, count in Counter(self._words).items() if count > 1)
            raise ValueError(f"words: expected every word once and no special token, got {repeated!r} twice")

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int = 1) -> Vocabulary:
        """The words that occur at least ``min_count`` times, most frequent first, ties in alphabetical order."""
        counts = Counter(word for caption in as_strings("captions", captions) for word in tokenize(caption))
        return cls(sorted((w for w in counts if counts[w] >= min_count), key=lambda w: (-counts[w], w)))

    def __len__(self) -> int:
        """The number of indices, special tokens included: the size of an embedding table."""
        return len(self._words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._words == other._words

    def __hash__(self) -> int:
        return hash(tuple(self._words))

    @property
    def words(self) -> list[str]:
        """Every token in index order, special ones first."""
        return list(self._words)

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens (M, L) int64, padded with 0, and lengths (M,) int64, which count ``<start>`` and ``<end>``."""
        captions = as_strings("captions", captions)
        start, end, unknown = (self._index[token] for token in (START, END, UNKNOWN))
        flat, counts = array("q"), []  # COCO has 566,000 captions: lists of lists of them would take gigabytes
        for caption in captions:
            row = [start, *(self._index.get(word, unknown) for word in tokenize(caption)), end]
            flat.extend(row)
            counts.append(len(row))
        lengths = torch.tensor(counts, dtype=torch.int64, device="cpu")
        tokens = torch.zeros(len(counts), max(counts, default=0), dtype=torch.int64, device="cpu")
        if counts:
            tokens[torch.arange(tokens.shape[1], device="cpu") < lengths[:, None]] = torch.frombuffer(
                flat, dtype=torch.int64
            )
        return tokens, lengths

    def decode(self, tokens: Sequence[int] | Tensor) -> str:
        """The words of one row of tokens, without padding, start and end."""
        skipped = {self._index[token] for token in (PAD, START, END)}
        return " ".join(self._words[index] for index in map(int, tokens) if index not in skipped)

    def save(self, path: str | Path) -> Path:
        """Write JSON to ``path``, whole or not at all; returns the path."""
        text = json.dumps(
            {"format": _FORMAT, "words": self._words[len(SPECIAL_TOKENS) :]}, ensure_ascii=False, indent=0
        )
        return write_bytes_atomically(path, text.encode())

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what `save` wrote; ValueError when the file is something else."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{path}: expected what Vocabulary.save wrote, got no valid JSON: {error}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{path}: expected a vocabulary with format {_FORMAT!r}, got other JSON")
        words = content.get("words")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{path}: words: expected a list of strings")
        return cls(words)
