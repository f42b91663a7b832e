"""Rows of host memory or of memory-mapped files, block by block on the device where they are mined.

On a GPU a block is read by a thread of its own into pinned memory and copied on a stream of its own while the block
before it is mined; there are two of each, so mining waits only where reading is slower than it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from .._sources import TensorSource

_SLOTS = 2


class RowSource(Protocol):
    """A matrix of which some rows at a time are brought to the CPU, or that is on the device already."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # (N, D)

    @property
    def dtype(self) -> torch.dtype: ...

    def rows(self, start: int, stop: int) -> Tensor: ...  # (stop - start, D)


def staged_blocks(
    source: RowSource,
    ranges: Iterable[tuple[int, int]],
    device: torch.device | str,
) -> Generator[Tensor, None, None]:  # each (stop - start, D) on the device
    """The rows [start, stop) of each range, in their order.

    A block may be used until the next one is asked for, on the stream that is current then. Whoever stops early closes
    the iterator (or drops it); an error of the source is raised where its block is asked for.
    """
    device = torch.device(device)
    if device.type != "cuda" or (isinstance(source, TensorSource) and source.tensor.is_cuda):
        for start, stop in ranges:
            yield source.rows(start, stop).to(device)
        return
    ranges = list(ranges)
    most = max((stop - start for start, stop in ranges), default=0)
    slots = [_Slot(most, source, device) for _ in range(min(_SLOTS, len(ranges)))]
    stream = torch.cuda.Stream(device)
    with ThreadPoolExecutor(1, thread_name_prefix="aoq-staging") as reader:
        try:
            coming: list[Future[Tensor]] = [
                reader.submit(slot.load, source, some, stream) for slot, some in zip(slots, ranges)
            ]
            for number in range(len(ranges)):
                slot = slots[number % len(slots)]
                block = coming[number].result()
                torch.cuda.current_stream(device).wait_event(slot.copied)
                yield block
                slot.used.record(torch.cuda.current_stream(device))
                if number + len(slots) < len(ranges):
                    coming.append(reader.submit(slot.load, source, ranges[number + len(slots)], stream))
        finally:
            reader.shutdown(wait=True, cancel_futures=True)
            stream.synchronize()  # before the memory is given back


class _Slot:
    """Room for one block in pinned memory and on the device."""

    def __init__(self, rows: int, source: RowSource, device: torch.device) -> None:
        shape = (rows, source.shape[1])
        self.device = device
        self.pinned = torch.empty(shape, dtype=source.dtype, pin_memory=True)
        self.rows = torch.empty(shape, dtype=source.dtype, device=device)
        self.copied = torch.cuda.Event()  # the block has come to the device
        self.used = torch.cuda.Event()  # whoever asked for it has used it
        self.used.record(torch.cuda.current_stream(device))  # the memory may have had another use there

    def load(self, source: RowSource, some: tuple[int, int], stream: torch.cuda.Stream) -> Tensor:
        """In the reader's thread: the block on the device, there once `copied` has happened."""
        start, stop = some
        self.copied.synchronize()  # the pinned memory is free
        self.pinned[: stop - start].copy_(source.rows(start, stop))
        block = self.rows[: stop - start]
        with torch.cuda.device(self.device), torch.cuda.stream(stream):
            stream.wait_event(self.used)
            block.copy_(self.pinned[: stop - start], non_blocking=True)
            self.copied.record(stream)
        return block
