"""What a mining job will take: memory, disk, and time by a short calibration. Writes nothing."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from .._files import nearest_existing
from .._sources import Source, TensorSource
from ..mining.embeddings import Embeddings
from ..mining.engine import mine_rows
from ..mining.keys import no_keys
from ..mining.plan import MiningPlan, make_plan
from ..mining.shards import Shards, choose_shard_rows
from ..mining.task import MiningTask
from .files import DEFAULT_MEMORY
from .manifest import Manifest

_CALIBRATION = 1.0  # seconds
_ANCHORS, _FIRST_CANDIDATES = 2048, 2048
_CALIBRATION_BYTES = 1 << 28
_KEY, _ENTRY = 8, 8  # bytes of a key, and of an index with its score


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes, times in seconds."""

    scores: int  # pairs there are
    plan: MiningPlan
    tiles: int
    shards: int
    shard_rows: int
    memory: int  # at the peak
    embeddings: int  # as they are on the disk, or in memory
    lists: int  # on the disk, in the end
    work: int  # on the disk, until then
    free: int  # on the disk
    rate: float  # pairs a second, in the calibration
    complete: bool
    done: int  # shards that are on the disk already

    @property
    def seconds(self) -> float:
        """What is left to do, in one process."""
        left = 0 if self.complete else 1 - self.done / max(1, self.shards)
        return left * self.scores / self.rate


def estimate(
    anchors: Source,  # (N, D)
    candidates: Source,  # (M, D)
    out: Path,
    k: int,
    k_reverse: int | None,
    skip: int,
    memory_limit: int | None,
    device: torch.device,
) -> Estimate:
    """What `mine_to_files` would do in ``out``; rules that exclude pairs change little of it."""
    limit = DEFAULT_MEMORY if memory_limit is None else memory_limit
    task = MiningTask(Embeddings(anchors), Embeddings(candidates), k, k_reverse, skip)
    rows, columns, width = len(task.anchors), len(task.candidates), task.anchors.width
    manifest = Manifest.load(out, "out")
    shard_rows = (manifest.shard_rows if manifest else None) or choose_shard_rows(task, limit)
    shards = Shards(out, task, shard_rows, 0)
    complete = manifest is not None and manifest.complete
    done = len(shards.verify(range(shards.count))) if manifest and not complete else 0
    plan = make_plan(task, memory_limit, device)
    some = min(shard_rows, rows)
    tiles = -(-some // plan.anchor_rows) * shards.count * -(-columns // plan.candidate_rows)
    item = anchors.dtype.itemsize
    return Estimate(
        scores=rows * columns,
        plan=plan,
        tiles=tiles,
        shards=shards.count,
        shard_rows=shard_rows,
        memory=plan.peak_bytes,
        embeddings=(rows + columns) * width * item,
        lists=(rows * k + columns * (k_reverse or 0)) * _ENTRY,
        work=rows * task.depth * _KEY + sum(columns * shards.reverse_depth(n) * _KEY for n in range(shards.count)),
        free=shutil.disk_usage(nearest_existing(out)).free,
        rate=_calibrate(task, device),
        complete=complete,
        done=done,
    )


def _calibrate(task: MiningTask, device: torch.device) -> float:
    """Pairs a second of the first anchors, with more and more candidates until it takes long enough to be measured."""
    anchors = TensorSource(task.anchors.source.rows(0, min(_ANCHORS, len(task.anchors))))
    most = min(len(task.candidates), max(_FIRST_CANDIDATES, _CALIBRATION_BYTES // (task.anchors.width * 8)))
    some, warm = min(_FIRST_CANDIDATES, most), False
    while True:
        candidates = TensorSource(task.candidates.source.rows(0, some))
        part = MiningTask(Embeddings(anchors), Embeddings(candidates), task.k, task.k_reverse, task.skip)
        reverse = None
        if part.depth_reverse is not None:
            reverse = no_keys(some, part.depth_reverse)
        plan = make_plan(part, None, device)
        started = time.perf_counter()
        mine_rows(part, 0, len(part.anchors), plan, device, reverse).cpu()
        seconds = max(time.perf_counter() - started, 1e-6)
        if warm and (seconds >= _CALIBRATION or some == most):
            return max(1, len(part.anchors) * some) / seconds
        if warm:
            some = min(most, 2 * some)
        warm = True
