"""How a mining task is cut into tiles: by the memory it may use, and by how long one call should take."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._machine import available_memory
from .._scalars import as_int
from .task import MiningTask
from .tile import has_kernel

# A call of the operator cannot be interrupted, so a tile keeps each thread busy for a second or two: so many
# multiply-adds.
_PRODUCTS_PER_THREAD = 1 << 37
_PRODUCTS_PER_DEVICE = 1 << 43

# Every tile merges into lists and converts candidates: many rows a tile make both cheap.
_ROWS_PER_THREAD, _LEAST_USUAL_ROWS = 2048, 4096
_LEAST_ROWS, _LEAST_COLUMNS = 64, 256

_USUAL_LIMIT = 4 << 30
_KEY = 8  # bytes
# What one thread works in: a group of rows' lists, up to a limit, and a panel (csrc/cpu/mining/mine_tile.cpp).
_LIST_BUFFERS, _LIST_SLACK, _BLOCK_ROWS, _ROUNDED_ROWS = 64 << 20, 528, 504, 12
_THREAD = 8 << 20
_TEMPORARY = 80 << 20  # keys on the way to indices and scores, and what allocators keep
_CUDA_WORKSPACE = 2 << 30  # MiningBudget of csrc/cuda/mining/mining_choice.h
_CUDA_ROW = 64  # bounds and limits of a row
_PACKED_ROWS = 504 * 6  # bytes of a block of rows, packed, for every dimension
_PER_COLUMN = 800  # a column's list besides its k keys twice over and the list it returns; bounds of its row
_PLAIN_PANEL = 1024 * 4096 * 64  # float64 products, scores and keys of a panel of the plain path


@dataclass(frozen=True)
class MiningPlan:
    """``resident_rows`` anchors at a time see all candidates, in tiles of anchor_rows × candidate_rows scores."""

    resident_rows: int
    anchor_rows: int
    candidate_rows: int
    peak_bytes: int  # beyond the arguments and the result, estimated


def make_plan(task: MiningTask, memory_limit: int | None = None, device: torch.device | str = "cpu") -> MiningPlan:
    """The largest tiles that are worth it and fit.

    Args:
        memory_limit: bytes that mining may use beyond its arguments and its result; None: 4 GiB, or half of what is
            free where that is less.

    Raises:
        TypeError: memory_limit is not an int.
        ValueError: not even the smallest tiles fit.
    """
    device = torch.device(device)
    limit = _check_limit(memory_limit, device)
    count, others = max(1, len(task.anchors)), max(1, task.all_candidates or len(task.candidates))
    threads = torch.get_num_threads()
    products = _PRODUCTS_PER_THREAD * threads if device.type == "cpu" else _PRODUCTS_PER_DEVICE
    usual = max(_LEAST_USUAL_ROWS, _ROWS_PER_THREAD * threads)
    rows = min(count, usual if task.depth_reverse is None else 2 * usual)  # every tile finishes its columns' lists too
    columns = min(others, max(_LEAST_COLUMNS, products // (rows * task.anchors.width)))
    sizes = _Sizes(task, device, threads)
    while sizes.total(rows, rows, columns) > limit:
        if columns > _LEAST_COLUMNS and (columns >= rows or rows <= _LEAST_ROWS):
            columns = max(_LEAST_COLUMNS, columns // 2)
        elif rows > _LEAST_ROWS:
            rows = max(_LEAST_ROWS, rows // 2)
        else:
            needed = sizes.total(rows, rows, columns)
            raise ValueError(
                f"memory_limit must be at least {needed:,} bytes for this task with {threads} threads, got {limit:,}"
            )
    spare = limit - sizes.total(rows, rows, columns)
    resident = min(count, rows + spare // max(1, sizes.resident_row))
    resident = max(rows, resident // rows * rows) if resident < count else count
    return MiningPlan(resident, rows, columns, sizes.total(resident, rows, columns))


class _Sizes:
    """Bytes of what a tile needs."""

    def __init__(self, task: MiningTask, device: torch.device, threads: int) -> None:
        width, depth, depth_reverse = task.anchors.width, task.depth, task.depth_reverse or 0
        dtype = task.anchors.source.dtype
        self._threads = 0  # that keep lists of their own
        self._reverse = len(task.candidates) * depth_reverse * _KEY
        # The lists of all rows that wait for more candidates, and the rows themselves where they are in a file.
        self.resident_row = depth * _KEY + (0 if task.anchors.in_memory else width * dtype.itemsize)
        if device.type == "cuda" and has_kernel(device, dtype, max(depth, depth_reverse)):
            staged = 0 if task.anchors.in_memory else width * dtype.itemsize
            self._row = 2 * depth * _KEY + staged + _CUDA_ROW
            self._column = 2 * depth_reverse * _KEY + 3 * staged + _CUDA_ROW
            self._fixed = _CUDA_WORKSPACE
        elif has_kernel(device, dtype):
            wide = 0 if task.candidates.in_memory and dtype == torch.float32 else width * 4
            packed = width * 6  # as bfloat16 and, where that cannot tell rows apart, as float32
            self._row = 2 * depth * _KEY + wide + 32
            self._column = (
                wide
                + packed
                + (0 if task.candidates.in_memory else width * dtype.itemsize)
                + (depth_reverse * 3 * _KEY + _PER_COLUMN if depth_reverse else 32)
            )
            self._threads = threads
            self._list = (min(2 * depth + 64, len(task.candidates)) + _LIST_SLACK) * _KEY
            self._fixed = (_THREAD + _PACKED_ROWS * width) * threads + _TEMPORARY
        else:
            self._row = 3 * depth * _KEY + width * 8
            self._column = width * 16 + 3 * depth_reverse * _KEY
            self._fixed = _PLAIN_PANEL

    def total(self, resident: int, rows: int, columns: int) -> int:
        per_row = resident * self.resident_row + rows * self._row
        return per_row + columns * self._column + self._fixed + self._lists(rows) + self._reverse

    def _lists(self, rows: int) -> int:
        """The lists in the making of so many rows, in two groups a thread of which it holds one."""
        if self._threads == 0:
            return 0
        group = -(-rows // (2 * self._threads))
        group += _ROUNDED_ROWS * -(-group // _BLOCK_ROWS)
        most = max(_LIST_BUFFERS, 2 * _ROUNDED_ROWS * self._list)
        return self._threads * min(most + _BLOCK_ROWS * self._list, group * self._list)


def _check_limit(memory_limit: int | None, device: torch.device) -> int:
    if memory_limit is None:
        return min(_USUAL_LIMIT, free_memory(device) // 2)
    limit = as_int("memory_limit", memory_limit)
    if limit < 1:
        raise ValueError(f"memory_limit must be at least 1 byte, got {limit}")
    return limit


def free_memory(device: torch.device) -> int:
    """Bytes that are free for mining on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()
