"""Matrices that are read a block of rows at a time: tensors, numpy arrays, memory maps, and readers of files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .._validation import FLOAT_DTYPES, INTEGER_DTYPES, check_floating, check_tensor, dtype_of


class RowReader(Protocol):
    """Anything whose rows can be read in order, such as an open file of embeddings."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def rows(self, start: int, stop: int) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Rows:
    """A floating-point matrix (rows, D) under the name by which errors call it."""

    name: str
    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    read: Callable[[int, int], Tensor]  # (start, stop) -> (stop - start, D)

    def __len__(self) -> int:
        return self.shape[0]


# What the metrics take as a matrix. numpy is not needed to use them, so its arrays are known by their interface.
Matrix = Any  # Tensor | numpy.ndarray | RowReader | Rows


def as_rows(name: str, matrix: Matrix) -> Rows:
    """Take ``matrix`` as it is, without reading it. TypeError and ValueError call it ``name``."""
    if isinstance(matrix, Rows):
        return matrix
    if isinstance(matrix, Tensor):
        check_floating(name, matrix)
        return _rows(name, matrix.shape, matrix.dtype, matrix.device, lambda start, stop: matrix[start:stop])
    if hasattr(matrix, "__array_interface__"):
        return _rows(name, matrix.shape, _torch_dtype(name, matrix), torch.device("cpu"), _array_reader(matrix))
    if callable(getattr(matrix, "rows", None)):
        return _rows(name, matrix.shape, matrix.dtype, torch.device("cpu"), matrix.rows)
    raise TypeError(
        f"{name} must be a torch.Tensor, got {type(matrix).__name__} "
        "(numpy arrays, memory maps and objects with rows(start, stop) are read as well)"
    )


def as_integers(name: str, numbers: Any, device: torch.device) -> Tensor:
    """(n,) int64 on ``device``: an integer tensor of that device, or an integer numpy array."""
    if hasattr(numbers, "__array_interface__") and not isinstance(numbers, Tensor):
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"{name} must be an integer array, got {numbers.dtype}")
        return torch.from_numpy(numbers.astype("int64")).to(device)
    check_tensor(name, numbers)
    if numbers.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name} must be an integer tensor, got {dtype_of(numbers)}")
    if numbers.device != device:
        raise ValueError(f"{name} must be on the device of the other arguments, {device}, got {numbers.device}")
    integers: Tensor = numbers.long()
    return integers


def _rows(name: str, shape: Any, dtype: torch.dtype, device: torch.device, read: Callable[[int, int], Tensor]) -> Rows:
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(f"{name} must have shape (rows, D) with D ≥ 1, got {tuple(shape)}")
    if dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{name} must be float32, float16, bfloat16 or float64, got {str(dtype).removeprefix('torch.')}"
        )
    return Rows(name, (int(shape[0]), int(shape[1])), dtype, device, read)


def _torch_dtype(name: str, array: Any) -> torch.dtype:
    known = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
    if array.dtype.name not in known:
        raise TypeError(f"{name} must be float32, float16 or float64, got {array.dtype}")
    return known[array.dtype.name]


def _array_reader(array: Any) -> Callable[[int, int], Tensor]:
    """Rows are copied, since a memory map may be read-only and its bytes in another order than the machine's."""

    def read(start: int, stop: int) -> Tensor:
        return torch.from_numpy(array[start:stop].astype(array.dtype.newbyteorder("="), order="C", subok=False))

    return read
