"""What a folder of mined lists says about itself: the problem it answers, and the files it vouches for."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .._arrays import HASHED_BYTES, data_of
from .._files import write_json
from .._sources import Source, TensorSource
from ..mining.side import Ragged
from ..mining.task import MiningTask

MANIFEST = "manifest.json"
FORMAT = 3
FILES = {  # the arrays of a folder, by name; only the first two are always there
    "indices": "indices.npy",
    "scores": "scores.npy",
    "reverse_indices": "reverse_indices.npy",
    "reverse_scores": "reverse_scores.npy",
    "text_image": "text_image.npy",
}

_ENTRY = {"file": str, "shape": list, "dtype": str, "size": int, "sha256": str}
_RULES = ("skip", "margin", "relative_margin", "max_score")
_EARLIER_FILES = ("hard_texts.npy", "hard_images.npy", "text_scores.npy", "image_scores.npy", "text_image.npy")


class OtherProblem(ValueError):
    """A folder holds the work of another mining."""


class EarlierFormat(ValueError):
    """A folder holds lists in a format that is read no more; the message says how to mine them again."""

    def __init__(self, message: str, files: list[str]) -> None:
        super().__init__(message)
        self.files = files  # the arrays of lists that were mined with a run; none of lists between files


@dataclass(frozen=True)
class MinedFrom:
    """Whose weights the lists are hard for; None where that is not known."""

    run: str | None = None
    epoch: int | None = None  # epochs (or steps, if all ages are in steps) that the weights had seen
    weights: str | None = None  # their fingerprint
    embeddings: str | None = None  # the fingerprint of the embeddings that were mined

    def __str__(self) -> str:
        weights = "weights of unknown age" if self.epoch is None else f"weights of epoch {self.epoch}"
        return f"{weights} of {'an unknown run' if self.run is None else self.run}"


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``."""

    problem: dict[str, Any]  # everything that decides the lists; "texts": which side is texts, as in `mine_to_files`
    mined_from: MinedFrom = MinedFrom()
    shard_rows: int | None = None  # anchors in a shard
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
            **asdict(self),
        }
        write_json(folder / MANIFEST, content)

    @classmethod
    def load(cls, folder: Path, name: str = "folder") -> Manifest | None:
        """The manifest of ``folder``, None where it has none; errors call it ``name``."""
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise ValueError(f"{name}: {path} is not valid JSON ({error}); mine into another folder") from error
        if isinstance(content, dict) and content.get("format") in (1, 2):
            raise _earlier_format(content, folder, name)
        try:
            _check(content, {"format": int})
            if content["format"] != FORMAT:
                raise ValueError(f"format {FORMAT}, got {content['format']}")
            _check(content, {"problem": dict, "mined_from": dict, "fingerprints": dict, "files": dict})
            _check(content["problem"], {"texts": str}, "problem.")
            if content["files"] and not {"indices", "scores"} <= content["files"].keys():
                raise ValueError(f"indices and scores among files, got {', '.join(content['files'])}")
            for array, entry in content["files"].items():
                _check(entry, _ENTRY, f"files.{array}.")
                if entry["file"] != FILES.get(array):
                    raise ValueError(f"{FILES.get(array)} as files.{array}.file, got {entry['file']}")
            mined_from = MinedFrom(**content["mined_from"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {path}: expected {error}; mine again, into another folder") from error
        return cls(content["problem"], mined_from, content.get("shard_rows"), content["fingerprints"], content["files"])

    def differs(self, problem: dict[str, Any]) -> str | None:
        """What of another problem is not as in this one; None if nothing is."""
        return next((name for name in problem if self.problem.get(name) != problem[name]), None)

    def check_same(self, problem: dict[str, Any], folder: Path, cure: str = "mine into another folder") -> None:
        """Refuse to go on with another problem than the folder's."""
        if (name := self.differs(problem)) is not None:
            raise OtherProblem(
                f"{name}: {folder} holds lists mined with {_short(self.problem.get(name))}, "
                f"got {_short(problem[name])}; {cure}"
            )


def _check(content: Any, kinds: dict[str, type], where: str = "") -> None:
    """Require entries of these kinds; what is raised goes on after "expected"."""
    if not isinstance(content, dict):
        raise ValueError(f"an object{f' as {where[:-1]}' if where else ''}, got {content!r:.60}")
    for name, kind in kinds.items():
        value = content.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            words = {str: "a text", int: "a number", dict: "an object", list: "a list"}
            raise ValueError(f"{words[kind]} as {where}{name}, got {value!r:.60}")


def _earlier_format(content: dict[str, Any], folder: Path, name: str) -> EarlierFormat:
    """Lists between files had a problem then too, those of a run had their arrays at the top."""
    between_files = isinstance(content.get("problem"), dict)
    rules = content["problem"] if between_files else content.get("rules")
    rules = rules if isinstance(rules, dict) else {}
    words = [f"--{rule.replace('_', '-')}={rules[rule]}" for rule in _RULES if rules.get(rule) is not None]
    files: list[str] = []
    if between_files:
        prints = {entry.get("sha256"): path.removesuffix(":") for path, entry in _objects(content.get("fingerprints"))}
        hashes = {side: entry.get("sha256") for side, entry in _objects(rules)}
        sides = [f"--{side} {_quoted(prints.get(hashes.get(side)), side)}" for side in ("anchors", "candidates")]
        both = f"--both --k-reverse {rules['k_reverse']}" if rules.get("k_reverse") else ""
        ids = "--text-image-index INDEX" if rules.get("anchor_ids") else ""
        captions = "--captions CAPTIONS" if rules.get("anchor_labels") else ""
        words = [*sides, f"--k {rules.get('k')}", both, ids, captions, *words, "--out ANOTHER_FOLDER"]
    else:
        entries = {entry.get("file"): entry.get("shape") for _, entry in _objects(content)}
        files = [file for file in _EARLIER_FILES if file in entries]
        lengths = [entries.get(f"hard_{side}s.npy") for side in ("text", "image")]
        k_text, k_image = (shape[1] if isinstance(shape, list) and len(shape) == 2 else "K" for shape in lengths)
        repeated = "--repeated-captions" if rules.get("repeated_captions") else ""
        words = [f"--run {_quoted(content.get('run'), 'run')} --k-text {k_text} --k-image {k_image}", *words, repeated]
        words += [f"--out {shlex.quote(str(folder))} --overwrite"]
    return EarlierFormat(
        f"{name}: expected lists of format {FORMAT} in {folder}, got format {content['format']} of an earlier version; "
        f"mine again: aoq mine {' '.join(filter(None, words))}",
        files,
    )


def _objects(content: Any) -> list[tuple[str, dict[str, Any]]]:
    found = content.items() if isinstance(content, dict) else ()
    return [(name, value) for name, value in found if isinstance(value, dict)]


def _quoted(path: Any, what: str) -> str:
    """A path as a shell takes it, or what stands for one that is not known."""
    return shlex.quote(str(path)) if path else what.upper()


def describe_problem(task: MiningTask, prints: tuple[str, str], texts: str) -> tuple[dict[str, Any], MinedFrom]:
    """Everything that decides the lists, and what they are mined from.

    Args:
        prints: the fingerprints of both embeddings.
        texts: ``"anchors"`` or ``"candidates"``, whichever are the texts.
    """
    problem: dict[str, Any] = {"texts": texts}
    known = []
    for name, side, fingerprint in (("anchor", task.anchors, prints[0]), ("candidate", task.candidates, prints[1])):
        shape, dtype = list(side.source.shape), str(side.source.dtype).removeprefix("torch.")
        problem[f"{name}s"] = {"shape": shape, "dtype": dtype, "sha256": fingerprint}
        problem[f"{name}_ids"] = None if side.ids is None else _hash(side.ids)
        problem[f"{name}_labels"] = None if side.labels is None else _hash_labels(side.labels)
        known.append((dtype, shape, fingerprint))
    images_first = known if texts == "candidates" else known[::-1]
    return problem | task.rules.values(), MinedFrom(embeddings=_combine(*images_first))


def fingerprint_embeddings(
    images: Tensor,  # (N, D)
    texts: Tensor,  # (M, D)
) -> str:
    """A hash of embeddings: equal for equal dtypes, shapes and bits, on whatever device and with whatever strides."""
    return _combine(
        *(
            (str(rows.dtype).removeprefix("torch."), list(rows.shape), _hash_rows(TensorSource(rows)))
            for rows in (images, texts)
        )
    )


def _combine(*sides: tuple[str, list[int], str]) -> str:
    """dtype, shape and sha256 of images and of texts"""
    return hashlib.sha256(json.dumps(sides).encode()).hexdigest()


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
    rows, width = source.shape
    step = max(1, HASHED_BYTES // (width * source.dtype.itemsize))
    digest = hashlib.sha256()
    for start in range(0, rows, step):
        digest.update(data_of(source.rows(start, min(start + step, rows)).detach().cpu()))
    return digest.hexdigest()


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
    return f"sha256 {value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
