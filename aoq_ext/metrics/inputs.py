"""What the metrics are asked, checked: every error names the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._embeddings import rows_of
from .._scalars import as_int
from .._sources import RowReader, open_embeddings, read_integers
from .._validation import INTEGER_DTYPES, check_tensor, dtype_of, shape_of

# What the metrics take as a matrix. numpy is not needed to use them, so its arrays are known by their interface.
Matrix = Any  # Tensor | numpy.ndarray | str | os.PathLike[str] | RowReader | Rows


@dataclass(frozen=True, eq=False)
class Rows:
    """A floating-point matrix (rows, D) under the name by which errors call it."""

    name: str
    reader: RowReader
    device: torch.device

    @property
    def shape(self) -> tuple[int, int]:
        rows, width = self.reader.shape
        return rows, width

    @property
    def dtype(self) -> torch.dtype:
        return self.reader.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int, stop: int) -> Tensor:
        """(stop - start, D)"""
        return self.reader.rows(start, stop)


def as_rows(name: str, matrix: Matrix) -> Rows:
    """Take ``matrix`` as it is, without reading it. TypeError and ValueError call it ``name``."""
    if isinstance(matrix, Rows):
        return matrix
    device = matrix.device if isinstance(matrix, Tensor) else torch.device("cpu")
    reader = matrix if callable(getattr(matrix, "rows", None)) else open_embeddings(matrix, name)
    return Rows(name, reader, device)


def check_models_form(models: Any) -> None:
    """Require a non-empty sequence of pairs."""
    form = "a sequence of (image_embeddings, text_embeddings), one pair a model"
    if not isinstance(models, (list, tuple)):
        raise TypeError(f"models must be {form}, got {type(models).__name__}")
    if not models:
        raise ValueError(f"models must be {form}, got none")
    for m, model in enumerate(models):
        if not isinstance(model, (list, tuple)):
            raise TypeError(f"models must be {form}, got {type(model).__name__} in models[{m}]")
        if len(model) != 2:
            raise ValueError(f"models must be {form}, got {len(model)} elements in models[{m}]")


def check_comparable(rows: Rows, model: Rows) -> None:
    """Require the width, dtype and device of another matrix."""
    if rows.dtype != model.dtype:
        expected, got = (str(dtype).removeprefix("torch.") for dtype in (model.dtype, rows.dtype))
        raise TypeError(f"{rows.name} must have the dtype of {model.name}, {expected}, got {got}")
    check_device(rows, model)
    if rows.shape[1] != model.shape[1]:
        raise ValueError(f"{rows.name} must have the D of {model.name}, {model.shape[1]}, got {rows.shape[1]}")


def check_device(rows: Rows, model: Rows) -> None:
    if rows.device != model.device:
        raise ValueError(f"{rows.name} must be on the device of {model.name}, {model.device}, got {rows.device}")


def check_same_rows(rows: Rows, model: Rows) -> None:
    """Require as many rows as another matrix has, on its device."""
    if len(rows) != len(model):
        raise ValueError(f"{rows.name} must have as many rows as {model.name}, {len(model)}, got {len(rows)}")
    check_device(rows, model)


def checked_integers(name: str, numbers: Any, count: int, meaning: str, device: torch.device) -> Tensor:
    """(count,) int64 on ``device``: an integer tensor of that device, an integer numpy array, or the path of one."""
    if isinstance(numbers, Tensor):
        check_tensor(name, numbers)
        if numbers.dtype not in INTEGER_DTYPES:
            raise TypeError(f"{name} must be an integer tensor, got {dtype_of(numbers)}")
        if numbers.device != device:
            raise ValueError(f"{name} must be on the device of the other arguments, {device}, got {numbers.device}")
    integers = read_integers(numbers, name).to(device).long()
    if tuple(integers.shape) != (count,):
        raise ValueError(f"{name} must have {meaning}, {count}, got shape {shape_of(integers)}")
    return integers


def checked_owners(text_image_index: Any, count: int, texts: int, whose: str, images: Rows) -> Tensor:
    """(texts,) int64 in [0, count), every image at least once; ``whose`` says what has one of them each."""
    name = "text_image_index"
    owners = checked_integers(name, text_image_index, texts, f"one integer per {whose}", images.device)
    if count == 0:
        raise ValueError(f"{images.name} must hold at least one image, got {images.shape}")
    outside = torch.nonzero((owners < 0) | (owners >= count)).flatten()
    if outside.numel() > 0:
        raise ValueError(f"{name} must be in [0, {count}), got {int(owners[outside[0]])} in {rows_of(outside)}")
    without_text = torch.nonzero(torch.bincount(owners, minlength=count) == 0).flatten()
    if without_text.numel() > 0:
        raise ValueError(f"{name} must give every image a text, got none for {rows_of(without_text)}")
    return owners


def check_folds(folds: int, count: int) -> None:
    if as_int("folds", folds) < 1 or (count and count % folds):
        raise ValueError(f"folds must be a positive divisor of the {count} images, got {folds}")


def checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """One weight each of ``count`` models, all 1 by default."""
    if weights is None:
        return [1.0] * count
    numbers = [float(weight) for weight in weights]
    if len(numbers) != count:
        raise ValueError(f"weights must hold one number a model, {count}, got {len(numbers)}")
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or not any(numbers):
        raise ValueError(f"weights must be finite, none negative and not all 0, got {numbers}")
    return numbers
