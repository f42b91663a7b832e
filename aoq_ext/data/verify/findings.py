"""What a check of a data set has to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being read, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong."""

    where: str  # a file, or a split
    what: str  # "features-not-finite": for programs
    expected: str
    got: str
    cure: str
    count: int = 1  # of lines, rows, files

    @classmethod
    def of_error(cls, error: Exception, where: str, what: str) -> Finding:
        """From the message of a loader: "place: expected this, got that; cure"."""
        message = str(error).partition("expected ")[2] or str(error)
        expected, _, rest = message.partition(", got ")
        got, _, cure = rest.partition("; ")
        return cls(where, what, expected, got or str(error), cure)

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}; got {self.got}. {self.cure[:1].upper()}{self.cure[1:]}."


@dataclass(frozen=True)
class Manner:
    """How a data set is looked into."""

    captions_per_image: int
    quick: bool  # into a sample of the features or pictures
    progress: Progress


@dataclass
class SplitSummary:
    """What a split holds."""

    name: str
    images: int | None = None
    captions: int | None = None
    shape: tuple[int, ...] | None = None  # of one image
    dtype: str | None = None
    layout: str = ""  # "one row an image"


@dataclass
class VerifyReport:
    """Everything about one data set. Notes are facts worth knowing with which nothing is wrong."""

    path: str
    kind: str
    splits: list[SplitSummary] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        return not self.findings

    def add(self, where: str, what: str, expected: str, got: str, cure: str, count: int = 1) -> None:
        self.findings.append(Finding(where, what, expected, got, cure, count))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"fine": self.fine, **asdict(self)}


def counted(count: int, what: str) -> str:
    """ "1 line", "2,000 lines" """
    return f"{count:,} {what}{'' if count == 1 else 's'}"
