"""The hardest negatives among listed candidates, by the scores of a model that is too slow for every pair.

A pair may be listed for its image and for its text; it is scored once. The scores of an image are made together, so
that its features, and what attention makes of them alone, are needed once. Blocks of images are what processes share
and what is kept on the disk; they, and so all bits, are the same for any number of processes.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from aoq_ext._arrays import data_of
from aoq_ext._files import remove_temporaries, write_atomically, write_json
from aoq_ext.lists.manifest import OtherProblem
from aoq_ext.mining.progress import MiningProgress
from aoq_ext.parallel import ALONE, Processes
from aoq_ext.training.config import ConfigError
from aoq_ext.training.encode import EncodedSplit, gathered
from aoq_ext.training.offline import fingerprint_weights

_BLOCK = 1 << 19  # candidates of the images of a block
_SORTED = 1 << 22  # scores sorted together
_FOLDER = "scores"  # in the work folder
T = TypeVar("T")


@torch.no_grad()
def rerank(
    split: EncodedSplit,
    listed: tuple[Tensor, Tensor],  # texts (N, K) of each image, images (M, L) of each text, int32; -1: no more
    skip: int,
    wanted: tuple[int, int],
    processes: Processes = ALONE,
    work: Path | None = None,
    on_progress: Callable[[MiningProgress], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each list, without the ``skip`` hardest, so many of the hardest by the model's scores.

    -> texts of each image, hardest first, equal scores by lower index, then -1; their scores, then -inf; images of each
    text; theirs.

    ``work``: a folder that keeps finished blocks, so that the same call goes on where another was stopped. Processes
    need it in common.
    """
    candidates = _Candidates(*listed)
    finished = None if work is None else _Finished(work / _FOLDER, _problem(split, candidates))
    scores = _Reranking(split, candidates, processes, finished, on_progress).scores()
    texts, images = (_hardest(side, found, skip, k) for side, found, k in zip(listed, scores, wanted, strict=True))
    return *texts, *images


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a block, by image and then by text, and which candidates they are."""

    image: Tensor  # (P,)
    text: Tensor  # (P,)
    of_images: tuple[Tensor, Tensor]  # places in the flattened lists of the images, and which of the P stands there
    of_texts: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return len(self.image)


class _Candidates:
    """What is listed for images and for texts, by image."""

    def __init__(self, texts: Tensor, images: Tensor) -> None:
        self.texts, self.images = texts.contiguous(), images.contiguous()
        by_image, self._places = self.images.flatten().sort(stable=True)
        numbers = torch.arange(len(texts) + 1, dtype=by_image.dtype, device=by_image.device)
        self._firsts = torch.searchsorted(by_image, numbers)  # (N + 1,) into places
        self.counts = (texts >= 0).sum(dim=1) + self._firsts.diff()  # (N,)
        block = (self.counts.cumsum(0) - self.counts) // _BLOCK
        self._bounds = [0, *block.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()]

    @property
    def sides(self) -> tuple[Tensor, Tensor]:
        return self.texts, self.images

    @property
    def blocks(self) -> int:
        return len(self._bounds) - 1

    def count(self, number: int) -> int:
        """The candidates in a block."""
        return int(self.counts[self._bounds[number] : self._bounds[number + 1]].sum())

    def pairs(self, number: int) -> _Pairs:
        first, last = self._bounds[number], self._bounds[number + 1]
        width, count = self.texts.shape[1], len(self.images)
        listed = self.texts[first:last].flatten().long()
        own = torch.nonzero(listed >= 0).squeeze(1)
        places = self._places[int(self._firsts[first]) : int(self._firsts[last])]
        keys = torch.cat(
            [
                (own // width + first) * count + listed[own],
                self.images.flatten()[places].long() * count + places // self.images.shape[1],
            ]
        )
        pairs, which = keys.unique(return_inverse=True)
        return _Pairs(
            pairs // count, pairs % count, (own + first * width, which[: len(own)]), (places, which[len(own) :])
        )


class _Finished:
    """Scores of finished blocks on the disk, each a file that is there whole or not at all."""

    def __init__(self, folder: Path, problem: dict[str, Any]) -> None:
        self.folder, self.problem = folder, problem

    def begin(self, blocks: int) -> list[int]:
        """The blocks that are there, undamaged; refuses the folder of another problem."""
        path = self.folder / "problem.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else self.problem
        for name, value in self.problem.items():
            if known.get(name) != value:
                raise OtherProblem(f"{name}: {self.folder} holds scores of others; mine into another folder")
        remove_temporaries(self.folder)
        write_json(path, self.problem)
        return [number for number in range(blocks) if self.read(number) is not None]

    def read(self, number: int) -> Tensor | None:
        try:
            with np.load(self._path(number)) as file:  # which has a checksum
                return torch.from_numpy(file["scores"])
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
            return None

    def write(self, number: int, scores: Tensor) -> None:
        write_atomically(self._path(number), lambda file: np.savez(file, scores=scores.numpy()))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.npz"


@dataclass
class _Reranking:
    """One call of `rerank` in one process."""

    split: EncodedSplit
    candidates: _Candidates
    processes: Processes
    finished: _Finished | None
    on_progress: Callable[[MiningProgress], None] | None

    def scores(self) -> tuple[Tensor, Tensor]:
        """Of all candidates, where they are listed; -inf elsewhere."""
        self.found = tuple(
            torch.full(side.shape, -torch.inf, dtype=torch.float32, device="cpu") for side in self.candidates.sides
        )
        self.done = self.scored = 0
        missing = self._without_kept()
        world, rank = self.processes.world, self.processes.rank
        for start in range(0, len(missing), world):  # a block for each process
            group = {number: self.candidates.pairs(number) for number in missing[start : start + world]}
            mine = missing[start + rank] if start + rank < len(missing) else None
            own = (
                torch.empty(0, dtype=torch.float32, device="cpu")
                if mine is None
                else _of_pairs(self.split, group[mine])
            )
            everyones = gathered(own, self.split.device, self.processes)
            parts = everyones.split([len(pairs) for pairs in group.values()])
            for pairs, scores in zip(group.values(), parts, strict=True):
                _check(pairs, scores)
            self.processes.meet("writing scores", partial(self._keep, mine, own))
            for (number, pairs), scores in zip(group.items(), parts, strict=True):
                self._take(number, pairs, scores)
        return self.found[0], self.found[1]

    def _without_kept(self) -> list[int]:
        """Take the blocks that are on the disk; returns the others."""
        if self.finished is None:
            return list(range(self.candidates.blocks))
        finished, leads = self.finished, self.processes.leads
        kept = self.processes.meet("reading scores", lambda: finished.begin(self.candidates.blocks) if leads else [])[0]
        for number in kept:
            scores = finished.read(number)
            if scores is None:
                raise ConfigError(f"work: expected a folder that all processes have in common, got {finished.folder}")
            self._take(number, self.candidates.pairs(number), scores)
        return [number for number in range(self.candidates.blocks) if number not in set(kept)]

    def _keep(self, number: int | None, scores: Tensor) -> None:
        if self.finished is not None and number is not None:
            self.finished.write(number, scores)

    def _take(self, number: int, pairs: _Pairs, scores: Tensor) -> None:
        for side, (places, which) in zip(self.found, (pairs.of_images, pairs.of_texts), strict=True):
            side.view(-1)[places] = scores[which]
        self.done, self.scored = self.done + 1, self.scored + self.candidates.count(number)
        if self.on_progress is not None:
            total = int(self.candidates.counts.sum())
            kept = 0 if self.finished is None else self.done
            self.on_progress(MiningProgress(self.scored, total, kept, self.candidates.blocks))


def _of_pairs(split: EncodedSplit, pairs: _Pairs) -> Tensor:
    """-> (P,)"""
    images, counts = pairs.image.unique_consecutive(return_counts=True)
    texts = pairs.text.split(counts.tolist())
    parts = [split.of_image(image, some) for image, some in zip(images.tolist(), texts, strict=True)]
    return torch.cat([torch.empty(0, dtype=torch.float32, device="cpu"), *parts])


def _check(pairs: _Pairs, scores: Tensor) -> None:
    """Refuse scores that are no numbers: they would sort as the hardest."""
    if bad := int(scores.isnan().sum()):
        first = int(scores.isnan().nonzero()[0])
        raise ConfigError(
            f"model.matching: expected numbers as scores, got NaN for {bad:,} of {len(scores):,} pairs, first for "
            f"image {int(pairs.image[first])} and text {int(pairs.text[first])}"
        )


def _hardest(listed: Tensor, scores: Tensor, skip: int, k: int) -> tuple[Tensor, Tensor]:
    """listed, scores: (N, K) -> (N, k): without the first ``skip``, equal scores by lower index"""
    step = max(1, _SORTED // max(1, listed.shape[1]))
    parts = [_sorted(*some, skip, k) for some in zip(listed.split(step), scores.split(step), strict=True)]
    indices, values = zip(*parts, strict=True)
    return torch.cat(indices), torch.cat(values)


def _sorted(listed: Tensor, scores: Tensor, skip: int, k: int) -> tuple[Tensor, Tensor]:
    by_index = listed.argsort(dim=1)
    scores = scores.gather(1, by_index)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, skip : skip + k]
    return listed.gather(1, by_index.gather(1, order)), scores.gather(1, order)


def _problem(split: EncodedSplit, candidates: _Candidates) -> dict[str, Any]:
    """What decides the scores of a block. The candidates were found by the features, so they stand for them."""
    lists = hashlib.sha256()
    for side in candidates.sides:
        lists.update(f"{side.shape}".encode())
        lists.update(data_of(side))
    return {
        "weights": fingerprint_weights(split.model.state_dict()),
        "model": hashlib.sha256(repr(split.model).encode()).hexdigest(),
        "candidates": lists.hexdigest(),
        "block": _BLOCK,
    }
