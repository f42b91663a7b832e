"""Embeddings from files and arrays, read block by block: what is larger than memory is never held whole.

Every read is a copy, and no mapping of a file outlives it, so that resident memory is that of the blocks in use.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from ._embeddings import check_finite, check_matrix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    EmbeddingsLike = Tensor | NDArray[Any] | str | os.PathLike[str]

_NUMPY_FLOATS = ("float16", "float32", "float64")
_SAFETENSORS_FLOATS = {"F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16}
_FORM = "(rows, D) with D ≥ 1"
_MOST_INT64 = 2**63 - 1
_CHECKED_BYTES = 1 << 25
_ROWS_AT_A_TIME = 64  # a row read through a mapping may bring megabytes around it


class RowReader(Protocol):
    """Anything whose rows can be read in order."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, D)"""

    @property
    def dtype(self) -> torch.dtype: ...

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop), (stop - start, D)."""


class Source(RowReader, Protocol):
    """Rows of embeddings, in memory or in a file."""

    def take(self, index: Tensor) -> Tensor:
        """The rows that index (n,) int64 names, (n, D)."""


@dataclass(frozen=True)
class TensorSource:
    """Rows that are in memory already."""

    tensor: Tensor  # (rows, D)

    @property
    def shape(self) -> tuple[int, int]:
        return self.tensor.shape[0], self.tensor.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return self.tensor[start:stop]

    def take(self, index: Tensor) -> Tensor:
        return self.tensor[index.to(self.tensor.device)]


def open_embeddings(source: EmbeddingsLike, name: str = "embeddings", form: str = _FORM) -> Source:
    """Rows of embeddings (rows, D), wherever they are.

    Args:
        source: a tensor; a numpy array, memory-mapped ones included; or the path of a ``.npy`` file (float16, float32
            or float64, rows or columns first) or of a ``.safetensors`` file (bfloat16 too) with one tensor in it.
            ``file.safetensors:name`` chooses among several.
        name: what errors call them.
        form: what errors call their shape.
    """
    if isinstance(source, Tensor):
        check_matrix(name, source)
        return TensorSource(source)
    array: NDArray[Any] | NpyFile
    if isinstance(source, (str, os.PathLike)):
        path, tensor = _split(os.fspath(source))
        if path.suffix == ".safetensors":
            return _open_safetensors(path, tensor, name, form)
        if path.suffix != ".npy":
            raise ValueError(f"{name} must be a .npy or .safetensors file, got {os.fspath(source)}")
        array = NpyFile.open(path, name)
    elif hasattr(source, "__array_interface__"):
        array = source
    else:
        raise TypeError(f"{name} must be a tensor, a numpy array or the path of a file, got {type(source).__name__}")
    place = _place(array)
    if array.dtype.name not in _NUMPY_FLOATS:
        raise ValueError(f"{name} must be {', '.join(_NUMPY_FLOATS)}, got {place} with {array.dtype}")
    if not array.dtype.isnative:
        raise ValueError(f"{name} must be in the byte order of this machine, got {place} with {array.dtype.str}")
    _check_shape(name, place, array.shape, form)
    return ArraySource(array)


def embeddings_file(source: object) -> Path | None:
    """The file that `open_embeddings` reads ``source`` from."""
    return _split(os.fspath(source))[0] if isinstance(source, (str, os.PathLike)) else None


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Rows of a numpy array, or of one in a file."""

    array: NDArray[Any] | NpyFile  # (rows, D)

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return cast(torch.dtype, getattr(torch, self.array.dtype.name))

    def rows(self, start: int, stop: int) -> Tensor:
        if isinstance(self.array, NpyFile):
            return torch.from_numpy(self.array.read(start, stop))
        return torch.from_numpy(self.array[start:stop].copy(order="C"))

    def take(self, index: Tensor) -> Tensor:
        rows = index.cpu().numpy()
        if isinstance(self.array, NpyFile):
            return torch.from_numpy(self.array.take(rows))
        return torch.from_numpy(self.array[rows].copy(order="C"))


@dataclass(frozen=True)
class NpyFile:
    """An array in a ``.npy`` file."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int  # bytes before the array

    @classmethod
    def open(cls, path: Path, name: str) -> NpyFile:
        """Read the header, and hold it against the size of the file."""
        import numpy as np

        _check_exists(path, name)
        with path.open("rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"version {version} of the format")
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(file)
            except (ValueError, UnicodeDecodeError, SyntaxError, EOFError, OverflowError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(f"{name} must be a .npy file, got {path} without a valid header: {reason}") from error
            offset, size = file.tell(), os.fstat(file.fileno()).st_size
        if dtype.hasobject:
            raise ValueError(f"{name} must be numbers, got {path} with pickled objects")
        array = cls(path, shape, dtype, fortran and len(shape) > 1, offset)
        if size != (whole := offset + array.row_bytes * (shape[0] if shape else 1)):
            raise ValueError(f"{name} must be a whole .npy file, got {path} with {size} bytes of {whole}")
        return array

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop), rows first, of an array of one or two dimensions."""
        import numpy as np

        with self.path.open("rb") as file:
            if not self.fortran:
                out = np.empty((stop - start, *self.shape[1:]), self.dtype)
                self._fill(out, file, start * self.row_bytes)
                return out
            columns = np.empty((self.shape[1], stop - start), self.dtype)
            for number, column in enumerate(columns):
                self._fill(column, file, (number * self.shape[0] + start) * self.dtype.itemsize)
            return np.ascontiguousarray(columns.T)

    def take(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """The rows that index (n,) names."""
        import numpy as np

        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        if self.fortran:
            for number in range(self.shape[1]):
                start = self.offset + number * self.shape[0] * self.dtype.itemsize
                out[:, number] = np.memmap(self.path, self.dtype, "r", start, self.shape[:1])[index]
            return out
        with self.path.open("rb") as file:
            for row, number in zip(out, index.tolist()):
                self._fill(row, file, number * self.row_bytes)
        return out

    def _fill(self, out: NDArray[Any], file: BufferedReader, start: int) -> None:
        """Read what lies ``start`` bytes into the array; a mapping would die of a file that is cut meanwhile."""
        file.seek(self.offset + start)
        if file.readinto(out.data) != out.nbytes:
            raise OSError(f"{self.path} was cut short while it was read")


@dataclass(frozen=True)
class SafetensorsSource:
    """Rows of a tensor in a ``.safetensors`` file."""

    path: Path
    tensor: str
    shape: tuple[int, int]
    dtype: torch.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        with _safe_open(self.path) as file:  # anew for every block: what was read stays mapped until it is closed
            return cast(Tensor, file.get_slice(self.tensor)[start:stop].clone())

    def take(self, index: Tensor) -> Tensor:
        parts = [torch.empty(0, self.shape[1], dtype=self.dtype, device="cpu")]
        for some in index.cpu().split(_ROWS_AT_A_TIME):
            with _safe_open(self.path) as file:
                parts.append(file.get_tensor(self.tensor)[some])
        return torch.cat(parts)


def check_all_finite(name: str, source: RowReader) -> float:
    """Require finite values, block by block; returns the greatest Euclidean norm of a row, 0 without rows."""
    count, width = source.shape
    step = max(1, _CHECKED_BYTES // (width * source.dtype.itemsize))
    norms = (check_finite(name, source.rows(i, min(i + step, count)), first=i) for i in range(0, count, step))
    return max(norms, default=0.0)


def check_sources(anchors: Source, candidates: Source) -> None:
    """Require rows that can be compared: the same width, dtype and, of tensors, device."""
    if candidates.dtype != anchors.dtype:
        expected, got = (str(source.dtype).removeprefix("torch.") for source in (anchors, candidates))
        raise TypeError(f"candidates must have the dtype of anchors, {expected}, got {got}")
    if candidates.shape[1] != anchors.shape[1]:
        raise ValueError(f"candidates must have the D of anchors, {anchors.shape[1]}, got {candidates.shape[1]}")
    if isinstance(anchors, TensorSource) and isinstance(candidates, TensorSource):
        here, there = anchors.tensor.device, candidates.tensor.device
        if here != there:
            raise ValueError(f"candidates must be on the device of anchors, {here}, got {there}")
        if here.type == "meta":
            raise ValueError("anchors must hold numbers, got a tensor on the meta device")


def read_integers(source: Tensor | NDArray[Any] | str | os.PathLike[str], name: str) -> Tensor:
    """Integers (n,) int64 of an array or a ``.npy`` file; a tensor as it is."""
    if isinstance(source, Tensor):
        return source
    array: NDArray[Any] | NpyFile
    if isinstance(source, (str, os.PathLike)):
        array = NpyFile.open(Path(source), name)
    elif hasattr(source, "__array_interface__"):
        array = source
    else:
        raise TypeError(f"{name} must be a tensor or a numpy array of integers, got {type(source).__name__}")
    if array.dtype.kind not in "iu" or len(array.shape) != 1:
        got = f"{_place(array)} with {array.dtype} of shape {array.shape}"
        raise ValueError(f"{name} must be integers of one dimension, got {got}")
    integers = array.read(0, array.shape[0]) if isinstance(array, NpyFile) else array
    if len(integers) and (most := integers.max()) > _MOST_INT64:
        raise ValueError(f"{name} must be at most 2**63 - 1, got {_place(array)} with {most}")
    return torch.from_numpy(integers.astype("int64"))


def _place(array: NDArray[Any] | NpyFile) -> str:
    return str(array.path) if isinstance(array, NpyFile) else "an array"


def _split(given: str) -> tuple[Path, str | None]:
    """The file, and the tensor after a colon."""
    before, colon, after = given.rpartition(":")
    return (Path(before), after) if colon and before.endswith(".safetensors") else (Path(given), None)


def _check_exists(path: Path, name: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"{name} must be a file, got {path}, which {'is none' if path.exists() else 'is missing'}"
        )


def _open_safetensors(path: Path, tensor: str | None, name: str, form: str) -> Source:
    _check_exists(path, name)
    with _safe_open(path, name) as file:
        names = sorted(file.keys())
        if tensor is None:
            if len(names) != 1:
                raise ValueError(
                    f"{name} must name one tensor, as {path}:NAME, got {path} with {_some(names) or 'no tensors'}"
                )
            tensor = names[0]
        if tensor not in names:
            raise ValueError(f"{name} must name a tensor of {path}, {_some(names) or 'which has none'}, got {tensor!r}")
        part = file.get_slice(tensor)
        shape, kind = tuple(part.get_shape()), part.get_dtype()
    if kind not in _SAFETENSORS_FLOATS:
        raise ValueError(f"{name} must be {', '.join(_SAFETENSORS_FLOATS)}, got {path} with {kind}")
    _check_shape(name, str(path), shape, form)
    return SafetensorsSource(path, tensor, shape, _SAFETENSORS_FLOATS[kind])


def _safe_open(path: Path, name: str = "embeddings") -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{path} needs safetensors, which is not installed: pip install "aoq_ext[train]"', name="safetensors"
        ) from error
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, ValueError) as error:  # also for a file that is shorter or longer than its header says
        raise ValueError(f"{name} must be a whole .safetensors file, got {path}: {error}") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _check_shape(name: str, where: str, shape: tuple[int, ...], form: str) -> None:
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(f"{name} must have shape {form}, got {where} with {tuple(shape)}")
