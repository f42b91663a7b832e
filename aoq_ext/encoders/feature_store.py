"""Where the features of a whole data set are kept: in memory, or, where they are too many, in an unnamed file."""

from __future__ import annotations

import operator
import os
import socket
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from aoq_ext.parallel import ALONE, Processes

IN_MEMORY = 1 << 30


class FeatureStore:
    """Takes rows (F, D) a part at a time, and gives them back as one tensor.

    The file has no name, so it goes when the tensor does, also where the process is killed.

    Args:
        in_memory: bytes up to which rows stay in memory; twice as many are in use while they are put together.
        folder: where the file is made; by default where temporary files are.
        processes: which fill the store together, each with its rows of a part. In memory each has all of them; the file
            is shared by the processes of a machine, which have it in memory once as far as there is room.
        device: where rows are kept; on another than the CPU, all of them in memory.
    """

    def __init__(
        self,
        in_memory: int = IN_MEMORY,
        folder: str | Path | None = None,
        processes: Processes = ALONE,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.in_memory = in_memory if self.device.type == "cpu" else sys.maxsize
        self.folder = Path(tempfile.gettempdir() if folder is None else folder)
        self.processes = processes
        self._parts: list[Tensor] = []
        self._rows = 0
        self._file: BinaryIO | None = None
        self._writes = processes.alone  # one process of a machine does

    def add(self, rows: Tensor) -> None:
        """rows: those of all processes, as `Processes.gather` has them"""
        rows = rows.to(self.device)
        self._rows += len(rows)
        if self._file is None:
            self._parts.append(rows)
            if self._rows * rows.element_size() * rows.shape[1:].numel() <= self.in_memory:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file, rows = self.open(), rows[:0]
            for part in self._parts:
                self._write(self._file, part)
            self._parts = [rows]
        self._write(self._file, rows)

    def tensor(self) -> Tensor:
        """All rows; of a file, memory-mapped."""
        if self._file is None:
            return torch.cat(self._parts)
        self.processes.meet("writing features", self._file.flush)
        like = self._parts[0]
        with self._file as file:
            content = torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r+"))
        return content.view(like.dtype).view(self._rows, *like.shape[1:])

    def open(self) -> BinaryIO:
        if self.processes.alone:
            return tempfile.TemporaryFile(dir=self.folder)
        file: BinaryIO | None = None
        while True:  # once a machine
            without = self.processes.meet("sharing features", partial(operator.is_, file, None))
            if not any(without):
                assert file is not None
                return file
            maker = without.index(True)
            self._writes |= maker == self.processes.rank
            joined = self._join(maker, wanted=file is None)
            file = joined if file is None else file

    def _join(self, maker: int, wanted: bool) -> BinaryIO | None:
        """A new file of one process, for those that see it; it has a name only while they open it."""
        makes, host = self.processes.rank == maker, socket.gethostname()

        def make() -> tuple[str, str] | None:
            if not makes:
                return None
            descriptor, path = tempfile.mkstemp(prefix=".features.", suffix=".tmp", dir=self.folder)
            os.close(descriptor)
            return host, path

        made = self.processes.meet("making a file", make)[maker]
        assert made is not None
        seen = wanted and made[0] == host and os.path.exists(made[1])
        file = open(made[1], "r+b") if seen else None  # noqa: SIM115
        self.processes.meet("opening a file", lambda: None)
        if makes:
            os.unlink(made[1])
        return file

    def _write(self, file: BinaryIO, rows: Tensor) -> None:
        def write() -> None:
            try:
                file.write(rows.contiguous().view(-1).view(torch.uint8).numpy().data)
            except OSError as error:  # a full disk
                raise OSError(
                    error.errno, f"{error.strerror}, while features were written", os.fspath(self.folder)
                ) from error

        self.processes.meet("writing features", write if self._writes else lambda: None)
