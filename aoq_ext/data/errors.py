"""What loaders raise for files that are not what they should be."""

from __future__ import annotations


class DataError(OSError):
    """A data file is missing, damaged, or not in the format that was expected."""
