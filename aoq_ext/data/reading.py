"""Reading images in other processes, ahead of the one that needs them."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import random
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aoq_ext.data.image_rows import ImageRows, mapped_file, read_rows


@dataclass(frozen=True)
class Unread:
    """In the place of images that could not be read."""

    row: int | None  # that fails by itself; None: only the rows together do
    error: str
    trace: str  # where in the reader it came from


class RowReader:
    """Images by their numbers, for a ``torch.utils.data.DataLoader`` whose sampler yields (seed, numbers).

    What rows draw from the generators of random, numpy and torch follows from the seed, whoever reads them.
    """

    def __init__(self, images: ImageRows) -> None:
        self.images = images

    def __getitem__(self, request: tuple[int, NDArray[np.int64]]) -> NDArray[Any] | Unread:
        """(seed, rows (P,)) -> (P, ...)"""
        seed, rows = request
        with _drawing_from(seed):
            try:
                return read_rows(self.images, rows)
            except Exception as error:
                return Unread(self._failing(rows), f"{type(error).__name__}: {error}", traceback.format_exc())

    def _failing(self, rows: NDArray[np.int64]) -> int | None:
        for row in rows:
            try:
                read_rows(self.images, row[None])
            except Exception:
                return int(row)
        return None

    def __reduce__(self) -> tuple[Callable[[bytes], RowReader], tuple[bytes]]:
        packed = io.BytesIO()
        _Pickler(packed).dump(self.images)
        return _unpacked, (packed.getvalue(),)


def end_with_parent(worker: int) -> None:
    """For a process that reads: end at once when the process it reads for is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


class _Pickler(ForkingPickler):
    """Of a memory map takes the file's name: another process maps it too, instead of getting a copy of it."""

    def reducer_override(self, value: Any) -> Any:
        file = mapped_file(value) if isinstance(value, np.ndarray) else None
        if file is None or file.filename is None or file.mode == "c":  # what is changed in a copy is in no file
            return NotImplemented
        first = value.ctypes.data - file.ctypes.data + file.offset
        return _mapped, (str(file.filename), value.dtype, value.shape, value.strides, first)


def _mapped(
    path: str, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...], first: int
) -> NDArray[Any]:
    file = np.memmap(path, np.uint8, "r")
    array: NDArray[Any] = np.ndarray.__new__(np.memmap, shape, dtype, file, first, strides)
    return array


def _unpacked(packed: bytes) -> RowReader:
    return RowReader(pickle.loads(packed))


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Seed the generators that readers may use, and leave them as they were."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])
