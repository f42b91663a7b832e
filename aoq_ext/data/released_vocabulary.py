"""Vocabularies as the SCAN and VSE++ releases have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aoq_ext.data.errors import DataError
from aoq_ext.data.vocabulary import SPECIAL_TOKENS, Vocabulary

_PICKLE_ENDINGS = (".pkl", ".pickle", ".pck")
_MOST_BYTES_WORDS = 0.01  # a few words may well begin with b'; with captions read as bytes it is many
_BUILD_CURE = "build one from the captions with Vocabulary.build(captions, min_count=4).save(path)"


def read_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary in a JSON file, its words in the order of their numbers.

    Read are the releases' ``{"word2idx": {word: number}, ...}``, plain ``{word: number}``, a list of words in order,
    and what `Vocabulary.save` wrote. The special tokens come first, as in all of these, or not at all. Releases split
    captions with NLTK, this package at everything that is no letter, digit or mark: words such as "'s" are never met.

    DataError for anything else. Pickled vocabularies are refused, since unpickling runs whatever code the file holds.
    """
    path = Path(path)
    try:
        content = _content(path)
        if not (isinstance(content, dict) and "format" in content and "words" in content):
            return _from_words(_words(content))
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected a vocabulary as JSON, got no such file; {_BUILD_CURE}") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}; {_BUILD_CURE}") from error
    return Vocabulary.load(path)


def _content(path: Path) -> Any:
    data = path.read_bytes()
    if path.suffix in _PICKLE_ENDINGS or data[:1] == b"\x80":
        raise DataError(
            f"{path}: expected a vocabulary as JSON, got a pickle, which is not read because it can run any code; "
            f"{_BUILD_CURE}, or, where you trust the file, write json.dump(vocabulary.word2idx, file) in the code that "
            f"made it"
        )
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"expected a vocabulary as JSON, got {error}") from error


def _words(content: Any) -> list[str]:
    """The words in order, of a release's JSON."""
    if isinstance(content, dict) and isinstance(content.get("word2idx"), dict):
        content = content["word2idx"]
    if isinstance(content, list) and all(isinstance(word, str) for word in content):
        return content
    if not (isinstance(content, dict) and content and all(type(number) is int for number in content.values())):
        raise ValueError("expected {word: number}, {'word2idx': {word: number}} or a list of words, got other JSON")
    numbers = sorted(content.values())
    if numbers != list(range(len(numbers))):
        raise ValueError(
            f"expected the numbers 0 to {len(numbers) - 1}, each once, got {numbers[0]} to {numbers[-1]} for "
            f"{len(numbers)} words"
        )
    return sorted(content, key=content.__getitem__)


def _from_words(words: list[str]) -> Vocabulary:
    count = len(SPECIAL_TOKENS)
    own = words[count:] if tuple(words[:count]) == SPECIAL_TOKENS else words
    if misplaced := [word for word in own if word in SPECIAL_TOKENS]:
        raise ValueError(
            f"expected {', '.join(SPECIAL_TOKENS)} as the first words, in this order, or none of them, got "
            f"{misplaced[0]} as number {words.index(misplaced[0])}"
        )
    printed = [word for word in own if word.startswith(("b'", 'b"'))]
    if len(printed) > _MOST_BYTES_WORDS * len(own):
        raise ValueError(
            f"expected words, got {len(printed)} that begin like printed bytes, such as {printed[0]}: it was built "
            f"from captions that were read as bytes"
        )
    return Vocabulary(own)
