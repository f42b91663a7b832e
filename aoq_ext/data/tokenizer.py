"""What turns captions into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Tokenizer(Protocol):
    """Captions to rows of token numbers: a `Vocabulary`, or that of a pretrained text encoder."""

    def __len__(self) -> int:
        """The number of tokens, which are 0 to one less: the size of an embedding table."""

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """M captions -> tokens (M, L) int64, padded behind the last, and lengths (M,) int64, from 1 to L.

        Rows are cut at the longest of a batch: what lies behind a caption's length must not matter.
        """
