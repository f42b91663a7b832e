"""The features of a data set that several processes encode together: one file for all that see it."""

from __future__ import annotations

import operator
import os
import socket
import tempfile
from functools import partial
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from aoq_ext.encoders.feature_store import IN_MEMORY, FeatureStore
from aoq_ext.parallel import Processes


class SharedFeatureStore(FeatureStore):
    """Takes what each process adds, in rank order; all call it together.

    In memory every process has all rows. The file is shared by the processes of a machine, which have it in memory once
    as far as there is room; one of them writes it.
    """

    def __init__(self, processes: Processes, in_memory: int = IN_MEMORY, folder: str | Path | None = None) -> None:
        super().__init__(in_memory, folder)
        self.processes = processes
        self._writes = False

    def everyones(self, rows: Tensor) -> Tensor:
        return self.processes.gather(rows)

    def open(self) -> BinaryIO:
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

    def write(self, file: BinaryIO, rows: Tensor) -> None:
        write = super().write
        self.processes.meet("writing features", lambda: write(file, rows) if self._writes else None)

    def close(self, file: BinaryIO) -> None:
        self.processes.meet("writing features", file.flush)

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
