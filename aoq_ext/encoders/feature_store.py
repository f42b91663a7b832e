"""Where the features of a whole data set are kept: in memory, or, where they are too many, in an unnamed file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

IN_MEMORY = 1 << 30


class FeatureStore:
    """Takes rows (F, D) a part at a time, and gives them back as one tensor.

    The file has no name, so it goes when the tensor does, also where the process is killed.

    Args:
        in_memory: bytes up to which rows stay in memory; twice as many are in use while they are put together.
        folder: where the file is made; by default where temporary files are.
    """

    def __init__(self, in_memory: int = IN_MEMORY, folder: str | Path | None = None) -> None:
        self.in_memory = in_memory
        self.folder = Path(tempfile.gettempdir() if folder is None else folder)
        self._parts: list[Tensor] = []
        self._rows = 0
        self._file: BinaryIO | None = None

    def add(self, rows: Tensor) -> None:
        self._rows += len(rows)
        if self._file is None:
            self._parts.append(rows)
            if self._rows * rows.element_size() * rows.shape[1:].numel() <= self.in_memory:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file, rows = self.open(), rows[:0]
            for part in self._parts:
                self.write(self._file, part)
            self._parts = [rows]
        self.write(self._file, rows)

    def tensor(self) -> Tensor:
        """All rows; of a file, memory-mapped."""
        if self._file is None:
            return torch.cat(self._parts)
        self.close(self._file)
        like = self._parts[0]
        with self._file as file:
            content = torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r+"))
        return content.view(like.dtype).view(self._rows, *like.shape[1:])

    def everyones(self, rows: Tensor) -> Tensor:
        """Called with every batch of rows, before they are added: those of all who fill the store."""
        return rows

    def open(self) -> BinaryIO:
        return tempfile.TemporaryFile(dir=self.folder)

    def write(self, file: BinaryIO, rows: Tensor) -> None:
        try:
            file.write(rows.contiguous().view(-1).view(torch.uint8).numpy().data)
        except OSError as error:  # a full disk
            raise OSError(
                error.errno, f"{error.strerror}, while features were written", os.fspath(self.folder)
            ) from error

    def close(self, file: BinaryIO) -> None:
        """Called when all is written."""
        file.flush()
