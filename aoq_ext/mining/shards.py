"""Mining in restartable parts: each is the work of some anchors, and is on the disk whole or not at all.

A shard holds the keys of its anchors, and where both directions are mined the keys that they gave to every candidate.
Keys are exact and unique, so lists merged from shards are the lists of one undivided run. A finished shard counts once
it is listed, with size and sha256, in ``listed-RANK.json``; each rank writes a list of its own and reads them all.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._arrays import is_intact, write_array
from .._files import remove_temporaries, visible, write_json
from .._sources import NpyFile
from . import keys
from .task import MiningTask

SHARDS = "shards"
REVERSE_BUFFER = "reverse"  # a file that is unnamed as soon as it is mapped

_WORK = 1 << 38  # multiply-adds in a shard: some ten seconds of a small CPU
_LEAST_ROWS = 4096  # each shard reads all candidates, so it should be worth it
_REVERSE_BYTES = 1 << 34  # all shards' keys of candidates, on the disk
_LEAST_SHARDS = 16  # so many are worth more than those bytes
_KEY = 8  # bytes


def choose_shard_rows(task: MiningTask, memory_limit: int) -> int:
    """Anchors in a shard: a function of the sizes and the limit alone."""
    anchors, candidates = len(task.anchors), len(task.candidates)
    shards = min(-(-anchors * candidates * task.anchors.width // _WORK), -(-anchors // _LEAST_ROWS))
    if task.depth_reverse is not None:
        shards = min(shards, max(_LEAST_SHARDS, _REVERSE_BYTES // max(1, reverse_bytes(task))))
    fitting = memory_limit // 8 // (2 * _KEY * max(1, task.depth))  # twice: while a shard's lists are put together
    return max(1, min(-(-anchors // max(1, shards)), fitting))


class Shards:
    """The shards of a task, in a folder."""

    def __init__(self, folder: Path, task: MiningTask, rows: int, rank: int) -> None:
        self.folder = folder / SHARDS
        self.rows = rows
        self._anchors, self._candidates = len(task.anchors), len(task.candidates)
        self._depth, self._depth_reverse = task.depth, task.depth_reverse
        self._list = self.folder / f"listed-{rank}.json"
        self._own: dict[str, Any] = _read_list(self._list)

    @property
    def count(self) -> int:
        return -(-self._anchors // self.rows)

    def bounds(self, number: int) -> tuple[int, int]:
        """The anchors [start, stop) of a shard."""
        return number * self.rows, min((number + 1) * self.rows, self._anchors)

    def reverse_depth(self, number: int) -> int:
        """Keys of a candidate in a shard, which has no more than it has anchors."""
        start, stop = self.bounds(number)
        return min(stop - start, self._depth_reverse or 0)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_stale(self) -> None:
        """Remove what no list vouches for; for when no rank works."""
        if not self.folder.is_dir():
            return
        remove_temporaries(self.folder)
        kept = {entry["file"] for entries in self._listed().values() for entry in entries}
        for path in visible(self.folder, "*.npy"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def verify(self, numbers: Iterable[int]) -> list[int]:
        """Those of these shards that are listed and undamaged."""
        listed = self._listed()
        return [number for number in numbers if str(number) in listed and self._intact(number, listed[str(number)])]

    def write(self, number: int, found: Tensor, reverse: Tensor | None) -> None:
        """Put a shard on the disk and list it.

        Args:
            found: (rows of the shard, depth) keys of its anchors.
            reverse: (M, depth_reverse) keys that it gave to the candidates.
        """
        entries = [write_array(self._found(number), found.shape, "<i8", [found])]
        if reverse is not None:
            shape = len(reverse), self.reverse_depth(number)
            blocks = (block[:, : shape[1]] for block in reverse.split(1 << 16))
            entries.append(write_array(self._reverse(number), shape, "<i8", blocks))
        self._own[str(number)] = entries
        write_json(self._list, self._own)

    def read_found(self, block_bytes: int) -> Iterator[Tensor]:
        """The keys of all anchors in order, some (rows, depth) at a time."""
        step = max(1, block_bytes // (_KEY * max(1, self._depth)))
        for number in range(self.count):
            file = NpyFile.open(self._found(number), "shard")
            for start in range(0, file.shape[0], step):
                yield torch.from_numpy(file.read(start, min(start + step, file.shape[0])))

    def read_reverse(self, block_bytes: int) -> Iterator[Tensor]:
        """The keys of all candidates in order, merged from every shard, some (rows, depth_reverse) at a time."""
        assert self._depth_reverse is not None
        files = [NpyFile.open(self._reverse(number), "shard") for number in range(self.count)]
        width = sum(file.shape[1] for file in files) + self._depth_reverse
        step = max(1, block_bytes // (_KEY * max(1, width)))
        for start in range(0, self._candidates, step):
            stop = min(start + step, self._candidates)
            parts = [torch.from_numpy(file.read(start, stop)) for file in files]
            yield keys.merge(self._depth_reverse, keys.no_keys(stop - start, 0), *parts)

    def _found(self, number: int) -> Path:
        return self.folder / f"{number:06}-anchors.npy"

    def _reverse(self, number: int) -> Path:
        return self.folder / f"{number:06}-candidates.npy"

    def _listed(self) -> dict[str, Any]:
        listed: dict[str, Any] = {}
        for path in visible(self.folder, "listed-*.json"):
            listed.update(_read_list(path))
        return listed

    def _intact(self, number: int, entries: list[dict[str, Any]]) -> bool:
        expected = [self._found(number)] + ([] if self._depth_reverse is None else [self._reverse(number)])
        if [entry["file"] for entry in entries] != [path.name for path in expected]:
            return False
        return all(is_intact(self.folder, entry) for entry in entries)


def reverse_bytes(task: MiningTask) -> int:
    """What the keys of all candidates take."""
    return len(task.candidates) * (task.depth_reverse or 0) * _KEY


def reverse_buffer(task: MiningTask, folder: Path, memory_limit: int) -> Tensor | None:
    """Where a shard's keys of the candidates (M, depth_reverse) come together: in memory, or in an unnamed file."""
    if task.depth_reverse is None:
        return None
    shape, amount = (len(task.candidates), task.depth_reverse), reverse_bytes(task)
    if amount <= memory_limit // 4:
        return torch.empty(shape, dtype=torch.int64, device="cpu")
    descriptor, path = tempfile.mkstemp(prefix=f".{REVERSE_BUFFER}.", suffix=".tmp", dir=folder)
    try:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and a fatal signal in a mapping
            os.posix_fallocate(descriptor, 0, amount)
        else:
            os.ftruncate(descriptor, amount)
        return torch.from_file(path, shared=True, size=shape[0] * shape[1], dtype=torch.int64).view(shape)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(descriptor)
        os.unlink(path)


def _read_list(path: Path) -> dict[str, Any]:
    """The entries of a list; none of a damaged one, whose shards are then mined again."""
    try:
        content = json.loads(path.read_text())
        return {
            number: entries for number, entries in content.items() if all(e["file"] and e["sha256"] for e in entries)
        }
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {}
