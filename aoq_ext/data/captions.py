"""Files of captions, one a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aoq_ext.data.errors import DataError
from aoq_ext.data.vocabulary import is_bytes_literal

UTF8_CURE = "write it again as UTF-8, for example with `iconv -f latin1 -t utf-8`"
LITERAL_CURE = (
    "write it again from text: open it with open(path, encoding='utf-8'), and give every line that is a literal "
    "through ast.literal_eval(line).decode('utf-8')"
)


def caption_lines(path: str | Path) -> Iterator[bytes]:
    """The bytes of the lines; only a newline ends one: a caption may hold other separators.

    White space around a caption is no part of it. An empty line is a caption too: without it the rest would shift.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file):
            yield (line if number else line.removeprefix(b"\xef\xbb\xbf")).strip()


def check_text(where: str, caption: str) -> None:
    """DataError for what Python printed of ``bytes``."""
    if is_bytes_literal(caption):
        raise DataError(
            f"{where}: expected text, got the printed form of a bytes object, {caption:.60}, which would put the word "
            f'"b" in front of every caption; {LITERAL_CURE}'
        )


def read_captions(path: str | Path) -> list[str]:
    """The captions in a file, which must be UTF-8 text, one a line; DataError otherwise."""
    captions = []
    try:
        for number, line in enumerate(caption_lines(path), start=1):
            caption = line.decode("utf-8")
            check_text(f"{path}, line {number}", caption)
            captions.append(caption)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: expected a file with one caption a line, got no such file; correct the name"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: expected UTF-8, got {line[:60]!r} ({error}); {UTF8_CURE}") from error
    return captions
