"""What a folder of mined lists says about itself: the problem it answers, and the files it vouches for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .._arrays import HASHED_BYTES, data_of
from .._files import write_bytes_atomically
from .._sources import Source
from ..mining.rules import NegativeRules
from ..mining.side import Ragged
from ..mining.task import MiningTask

MANIFEST = "manifest.json"
FORMAT = 1


class OtherProblem(ValueError):
    """A folder holds the work of another mining."""


@dataclass
class Manifest:
    """The content of ``manifest.json``."""

    problem: dict[str, Any]  # everything that decides the lists, see `describe_problem`
    shard_rows: int  # anchors in a shard
    fingerprints: dict[str, Any] = field(default_factory=dict)  # of files of embeddings, so that they are read once
    files: dict[str, Any] = field(default_factory=dict)  # the lists, once all are there

    @property
    def complete(self) -> bool:
        return bool(self.files)

    def save(self, folder: Path) -> None:
        content = {
            "format": FORMAT,
            "what": "hard negatives: rows of the other side, hardest first, -1 and -inf where there are no more",
            "complete": self.complete,
            "files": self.files,
            "problem": self.problem,
            "shard_rows": self.shard_rows,
            "fingerprints": self.fingerprints,
        }
        write_bytes_atomically(folder / MANIFEST, json.dumps(content, indent=2).encode() + b"\n")

    @classmethod
    def load(cls, folder: Path, name: str = "out") -> Manifest | None:
        """The manifest of ``folder``, None where it has none; errors call it ``name``."""
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise ValueError(f"{name}: {path} is not valid JSON ({error}); mine into another folder") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT or "problem" not in content:
            raise ValueError(
                f"{name}: expected {path} to be of lists mined between files, format {FORMAT}, got other content; "
                "mine into another folder"
            )
        return cls(content["problem"], content["shard_rows"], content["fingerprints"], content["files"])

    def check_same(self, problem: dict[str, Any], folder: Path) -> None:
        """Refuse to go on with another problem than the folder's."""
        for name in problem:
            if self.problem.get(name) != problem[name]:
                raise OtherProblem(
                    f"{name}: {folder} holds lists mined with {_short(self.problem.get(name))}, "
                    f"got {_short(problem[name])}; mine into another folder"
                )


def describe_problem(task: MiningTask, rules: NegativeRules, prints: tuple[str, str]) -> dict[str, Any]:
    """Everything that decides the lists; prints: the fingerprints of both embeddings."""
    problem: dict[str, Any] = {}
    for name, side, fingerprint in (("anchor", task.anchors, prints[0]), ("candidate", task.candidates, prints[1])):
        problem[f"{name}s"] = {
            "shape": list(side.source.shape),
            "dtype": str(side.source.dtype).removeprefix("torch."),
            "sha256": fingerprint,
        }
        problem[f"{name}_ids"] = None if side.ids is None else _hash(side.ids)
        problem[f"{name}_labels"] = None if side.labels is None else _hash_labels(side.labels)
    problem.update(k=task.k, k_reverse=task.k_reverse, skip=task.skip)
    problem.update(margin=rules.margin, relative_margin=rules.relative_margin, max_score=rules.max_score)
    return problem


def fingerprint(source: Source, path: Path | None, known: dict[str, Any]) -> str:
    """The sha256 of all rows, whatever file they are in.

    Args:
        path: the file they are in, if they are in one.
        known: fingerprints of files whose path, size and time of change are still the same; gets this one.
    """
    if path is None:
        return _hash_rows(source)
    status = path.stat()
    key = f"{path.resolve()}:{getattr(source, 'tensor', '')}"
    now = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    entry = known.get(key)
    if entry is None or {name: entry.get(name) for name in now} != now:
        known[key] = entry = {**now, "sha256": _hash_rows(source)}
    return str(entry["sha256"])


def _hash_rows(source: Source) -> str:
    digest = hashlib.sha256()
    for block in _blocks(source):
        digest.update(data_of(block.detach().cpu()))
    return digest.hexdigest()


def _blocks(source: Source) -> Iterator[Tensor]:
    rows, width = source.shape
    step = max(1, HASHED_BYTES // (width * source.dtype.itemsize))
    for start in range(0, rows, step):
        yield source.rows(start, min(start + step, rows))


def _hash(numbers: Tensor) -> str:
    return hashlib.sha256(data_of(numbers)).hexdigest()


def _hash_labels(labels: Ragged) -> str:
    return hashlib.sha256(bytes.fromhex(_hash(labels.offsets)) + bytes.fromhex(_hash(labels.values))).hexdigest()


def _short(value: Any) -> str:
    """A part of the problem in a length that fits an error message."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        shape = " × ".join(map(str, value["shape"]))
        return f"{value['dtype']} {shape} with sha256 {value['sha256'][:12]}..."
    return f"sha256 {value[:12]}..." if isinstance(value, str) else str(value)
