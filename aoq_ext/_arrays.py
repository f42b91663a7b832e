"""``.npy`` files that are written, hashed and described block by block, and checked against that description."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from ._files import write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

HASHED_BYTES = 1 << 25


def write_array(path: Path, shape: tuple[int, ...], descr: str, blocks: Iterable[Tensor]) -> dict[str, Any]:
    """A ``.npy`` file of rows that come in blocks; returns what a manifest says of it."""
    entry: dict[str, Any] = {}

    def fill(file: BinaryIO) -> None:
        writer = ArrayWriter(file, shape, descr)
        for block in blocks:
            writer.write(block)
        entry.update(writer.describe(path))

    write_atomically(path, fill)
    return entry


class ArrayWriter:
    """A ``.npy`` file that is written, and hashed, block by block."""

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], descr: str) -> None:
        import numpy as np

        self._file, self._digest, self._size = file, hashlib.sha256(), 0
        self._shape, self._descr = tuple(shape), descr
        header = {"descr": descr, "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self, header)  # type: ignore[arg-type]

    def write(self, data: bytes | Tensor) -> None:
        """Bytes, or rows of the array's dtype."""
        content = data_of(data) if isinstance(data, Tensor) else memoryview(data)
        self._file.write(content)
        self._digest.update(content)
        self._size += len(content)

    def describe(self, path: Path) -> dict[str, Any]:
        return {
            "file": path.name,
            "shape": list(self._shape),
            "dtype": self._descr,
            "size": self._size,
            "sha256": self._digest.hexdigest(),
        }


def is_intact(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether a file has the size and the content that its entry says."""
    path = folder / entry["file"]
    return path.is_file() and bool(path.stat().st_size == entry["size"] and hash_file(path) == entry["sha256"])


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASHED_BYTES):
            digest.update(block)
    return digest.hexdigest()


def data_of(tensor: Tensor) -> memoryview:
    """The bytes of a dense CPU tensor."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def update_digest(digest: Any, array: NDArray[Any]) -> None:
    """Hash the elements in their order, a few rows at a time: the array may be a memory map larger than memory."""
    import numpy as np

    rows = max(1, HASHED_BYTES * max(1, len(array)) // max(1, array.nbytes))
    for first in range(0, len(array), rows):
        digest.update(np.ascontiguousarray(array[first : first + rows]).data)
