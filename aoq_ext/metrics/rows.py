"""Matrices that are read a block of rows at a time: tensors, numpy arrays, memory maps, files, and what else can."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .._embeddings import check_matrix
from .._validation import as_int64
from ..mining.sources import open_embeddings, read_integers


class RowReader(Protocol):
    """Anything whose rows can be read in order, on the CPU."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def rows(self, start: int, stop: int) -> Tensor: ...


# What the metrics take as a matrix. numpy is not needed to use them, so its arrays are known by their interface.
Matrix = Any  # Tensor | numpy.ndarray | str | os.PathLike[str] | RowReader | Rows


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


def as_rows(name: str, matrix: Matrix) -> Rows:
    """Take ``matrix`` as it is, without reading it. TypeError and ValueError call it ``name``."""
    if isinstance(matrix, Rows):
        return matrix
    if isinstance(matrix, Tensor):
        check_matrix(name, matrix)
        rows, width = matrix.shape
        return Rows(name, (rows, width), matrix.dtype, matrix.device, lambda start, stop: matrix[start:stop])
    if _is_array_or_path(matrix):
        matrix = open_embeddings(matrix, name)
    elif not callable(getattr(matrix, "rows", None)):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(matrix).__name__} "
            "(numpy arrays, memory maps, paths of files and objects with rows(start, stop) are read as well)"
        )
    rows, width = matrix.shape
    return Rows(name, (rows, width), matrix.dtype, torch.device("cpu"), matrix.rows)


def as_integers(name: str, numbers: Any, device: torch.device) -> Tensor:
    """(n,) int64 on ``device``: an integer tensor of that device, an integer numpy array, or the path of one."""
    if not isinstance(numbers, Tensor):
        return read_integers(numbers, name).to(device)
    integers = as_int64(name, numbers)
    if numbers.device != device:
        raise ValueError(f"{name} must be on the device of the other arguments, {device}, got {numbers.device}")
    return integers


def _is_array_or_path(value: Any) -> bool:
    return not isinstance(value, Tensor) and (
        hasattr(value, "__array_interface__") or isinstance(value, (str, os.PathLike))
    )
