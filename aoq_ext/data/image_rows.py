"""Images that need not be in memory: what is asked of them, some of them by index, and telling two sets apart."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hashlib import _Hash

Rows: TypeAlias = "int | slice | list[int] | NDArray[Any]"

HASHED_WHOLE_BYTES = 1 << 30
"""Images larger than this are told apart by a sample: to hash COCO's features, 33 GB, would take minutes each time."""
SAMPLED_ROWS = 256
_HASHED_BYTES = 1 << 24
_PREFETCHED_BYTES = 1 << 16  # a row smaller than this comes with the pages that are read around the first of it


@runtime_checkable
class ImageRows(Protocol):
    """One row an image, as a numpy array has them; an index reads only the rows asked for, into new memory.

    A class that can tell its content apart cheaply also has ``update_hash(digest) -> None``; see `hash_images`.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def ndim(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> Any: ...


class LazyRows:
    """Base of `ImageRows` that are made when they are asked for: a subclass says how, in `_read`."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape  # (N, ...)
        self.dtype = dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """What they would take in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        """Rows by number, slice, array of numbers or mask, as numpy does it, into new memory."""
        chosen = np.arange(len(self))[rows]
        if chosen.ndim == 0:
            one: NDArray[Any] = self._read(chosen[None])[0]
            return one
        if chosen.ndim != 1:
            raise IndexError(f"images: expected an index of one dimension, got {chosen.ndim} dimensions")
        return self._read(chosen)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("images: expected copy to be None or True, since these are made when asked for; got False")
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """rows: (P,) in [0, N) -> (P, ...)"""
        raise NotImplementedError


class SelectedRows(LazyRows):
    """Some rows of other `ImageRows`, still unread."""

    def __init__(self, images: ImageRows, rows: NDArray[np.int64]) -> None:
        """rows: (N',) in [0, N)"""
        super().__init__((len(rows), *images.shape[1:]), images.dtype)
        self.images = images
        self.rows = rows

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return read_rows(self.images, self.rows[rows])

    def update_hash(self, digest: _Hash) -> None:
        hash_images(digest, self.images)
        digest.update(self.rows.tobytes())


def select_rows(images: ImageRows, rows: NDArray[np.int64]) -> ImageRows:
    """The given rows: a copy of those in memory, an unread view of all others. rows: (N',) in [0, N)"""
    if is_in_memory(images):
        copied: NDArray[Any] = images[rows]
        return copied
    steps = np.unique(np.diff(rows))
    if len(rows) and (len(steps) == 0 or (len(steps) == 1 and steps[0] > 0)) and isinstance(images, np.memmap):
        view: NDArray[Any] = images[rows[0] : rows[-1] + 1 : steps[0] if len(steps) else 1]
        return view  # a slice of a memory map is one
    return SelectedRows(images, rows)


def read_rows(images: ImageRows, rows: NDArray[np.int64]) -> NDArray[Any]:
    """``images[rows]``, into new memory; rows of a memory map are asked of the disk together. rows: (P,) in [0, N)

    An index alone would wait for one page after the other, which takes several times as long when the file is not in
    the page cache.
    """
    if isinstance(images, np.ndarray) and (file := mapped_file(images)) is not None:
        _prefetch(images, file, rows)
    read: NDArray[Any] = images[rows]
    return read


def is_in_memory(images: ImageRows) -> bool:
    """Whether a row costs no more than its copy."""
    return isinstance(images, np.ndarray) and mapped_file(images) is None


def mapped_file(array: NDArray[Any]) -> np.memmap[Any, Any] | None:
    """The memory map that the array is a view of; None: it is in memory."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    return root if isinstance(root, np.memmap) and isinstance(root.base, mmap.mmap) else None


def _prefetch(images: NDArray[Any], root: np.memmap[Any, Any], rows: NDArray[np.int64]) -> None:
    row_bytes = images[:1].nbytes
    if row_bytes < _PREFETCHED_BYTES or not images[:1].flags.c_contiguous or not hasattr(mmap, "MADV_WILLNEED"):
        return
    pages: Any = root.base  # an mmap.mmap
    mapped_at = root.ctypes.data - root.offset % mmap.ALLOCATIONGRANULARITY
    for row in rows.tolist():
        first = images.ctypes.data + row * images.strides[0] - mapped_at
        start = first - first % mmap.PAGESIZE
        with contextlib.suppress(OSError, ValueError):  # advice only; the index itself refuses wrong rows
            pages.madvise(mmap.MADV_WILLNEED, start, first + row_bytes - start)


def hash_images(digest: _Hash, images: ImageRows) -> None:
    """Feed ``digest`` with what tells these images from others.

    That is every element, in order; beyond a gigabyte, type, shape and evenly spaced rows: features extracted anew
    differ in all of them. The time a file was changed is no part of it, so that a copy of the file counts as the same.
    """
    if hasattr(images, "update_hash"):
        images.update_hash(digest)
        return
    digest.update(f"{images.dtype}{images.shape}".encode())
    size = int(np.prod(images.shape, dtype=np.int64)) * images.dtype.itemsize
    if size > HASHED_WHOLE_BYTES:
        digest.update(b"sample")
        for row in sampled_rows(len(images)):
            digest.update(np.ascontiguousarray(images[row : row + 1]).data)
        return
    rows = max(1, _HASHED_BYTES * max(1, len(images)) // max(1, size))
    for first in range(0, len(images), rows):
        digest.update(np.ascontiguousarray(images[first : first + rows]).data)


def sampled_rows(count: int, most: int = SAMPLED_ROWS) -> list[int]:
    """Up to ``most`` evenly spaced rows of ``count``, first and last among them."""
    numbers: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)).tolist()
    return numbers


def fingerprint_images(images: ImageRows) -> str:
    """`hash_images` as SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    hash_images(digest, images)
    return digest.hexdigest()
