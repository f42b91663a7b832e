"""What a mining job will take: memory, disk, and time by a short calibration. Writes nothing."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch

from .._files import nearest_existing
from .._sources import Source, TensorSource
from ..mining.embeddings import Embeddings
from ..mining.engine import mine_rows
from ..mining.keys import no_keys
from ..mining.plan import make_plan
from ..mining.progress import count, duration, size
from ..mining.rules import MiningRules
from ..mining.shards import Shards, choose_shard_rows
from ..mining.task import MiningTask
from .files import DEFAULT_MEMORY
from .manifest import Manifest

_CALIBRATION = 1.0  # seconds
_ANCHORS, _FIRST_CANDIDATES = 2048, 2048
_CALIBRATION_BYTES = 1 << 28
_KEY, _ENTRY = 8, 8  # bytes of a key, and of an index with its score


def estimate(
    anchors: Source,  # (N, D)
    candidates: Source,  # (M, D)
    out: Path,
    rules: MiningRules,
    memory_limit: int | None,
    device: torch.device,
) -> dict[str, str]:
    """What `mine_to_files` would do in ``out``, in words by topic; rules that exclude pairs change little of it."""
    limit = DEFAULT_MEMORY if memory_limit is None else memory_limit
    task = MiningTask(Embeddings(anchors), Embeddings(candidates), rules)
    rows, columns = len(task.anchors), len(task.candidates)
    manifest = Manifest.load(out, "out")
    shard_rows = (manifest.shard_rows if manifest else None) or choose_shard_rows(task, limit)
    shards = Shards(out, task, shard_rows, 0)
    parts, scores = shards.count, rows * columns
    plan = make_plan(task, memory_limit, device)
    tiles = -(-min(shard_rows, rows) // plan.anchor_rows) * parts * -(-columns // plan.candidate_rows)
    in_the_end = (rows * rules.k + columns * (rules.k_reverse or 0)) * _ENTRY
    until_then = rows * task.depth * _KEY + sum(columns * shards.reverse_depth(n) * _KEY for n in range(parts))
    embeddings = (rows + columns) * task.anchors.width * anchors.dtype.itemsize
    if manifest is not None and manifest.complete:
        done, left = "everything", 0.0
    else:
        verified = len(shards.verify(range(parts))) if manifest else 0
        done, left = f"{verified} of {parts} parts", 1 - verified / max(1, parts)
    rate = _calibrate(task, device)
    return {
        "scores": f"{count(scores)}, each computed once; {_many(parts, 'restartable part')} of up to {shard_rows:,} "
        f"anchors, {_many(tiles, 'tile')} of up to {plan.anchor_rows:,} × {plan.candidate_rows:,}",
        "memory": f"{size(plan.peak_bytes)} at a time; the embeddings are {size(embeddings)} together",
        "disk": f"{size(in_the_end)} in the end, {size(until_then)} more until then; "
        f"{size(shutil.disk_usage(nearest_existing(out)).free)} free",
        "time": f"about {duration(left * scores / rate)}: {count(rate)} scores/s on {device} in a short trial",
        "done": f"{done}; nothing was written now",
    }


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _calibrate(task: MiningTask, device: torch.device) -> float:
    """Pairs a second of the first anchors, with more and more candidates until it takes long enough to be measured."""
    anchors = TensorSource(task.anchors.source.rows(0, min(_ANCHORS, len(task.anchors))))
    most = min(len(task.candidates), max(_FIRST_CANDIDATES, _CALIBRATION_BYTES // (task.anchors.width * 8)))
    some, warm = min(_FIRST_CANDIDATES, most), False
    while True:
        candidates = TensorSource(task.candidates.source.rows(0, some))
        part = MiningTask(Embeddings(anchors), Embeddings(candidates), task.rules)
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
