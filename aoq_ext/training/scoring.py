"""A whole data set under a model that matches by scores: every score, and the scores of listed pairs.

The features of all images and texts are held on the CPU, without padding; scores are made a block at a time. Blocks are
the same whatever the number of processes, which share them, and so are the scores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aoq_ext.encoders.matching import Features
from aoq_ext.encoders.score_matrix import PackedFeatures
from aoq_ext.training.embed import evaluating
from aoq_ext.training.features import full_precision
from aoq_ext.training.model import ScoringModel
from aoq_ext.training.pairs import EncodedPairs
from aoq_ext.training.processes import Processes

_IMAGE_BLOCK = 64  # images whose scores with all texts are made together; what processes share
_TEXT_BLOCK = 512
_PAIRS = 512  # single pairs scored together
_IN_MEMORY = 1 << 27  # scores; more of them are kept in a file


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """A data set's features, and the model that makes scores of them."""

    model: ScoringModel
    images: PackedFeatures  # N
    texts: PackedFeatures  # M

    @classmethod
    @torch.no_grad()
    def encode(cls, model: ScoringModel, pairs: EncodedPairs, batch_size: int = 512) -> ScoredSplit:
        device = next(model.parameters()).device

        def images() -> Iterator[Features]:
            for first in range(0, len(pairs.data.images), batch_size):
                batch = torch.from_numpy(np.array(pairs.data.images[first : first + batch_size]))
                yield full_precision(model.encode_images(batch.to(device)))

        def texts() -> Iterator[Features]:
            for first in range(0, len(pairs.tokens), batch_size):
                length = pairs.lengths[first : first + batch_size]
                tokens = pairs.tokens[first : first + batch_size, : int(length.max())]
                yield full_precision(model.encode_texts(tokens.to(device), length.to(device)))

        with evaluating(model):
            return cls(model, PackedFeatures(images()), PackedFeatures(texts()))

    @torch.no_grad()
    def matrix(self, processes: Processes | None = None) -> NDArray[np.float32]:
        """(N, M): every score; in a temporary file, memory-mapped, where there are many."""
        blocks = range(0, len(self.images), _IMAGE_BLOCK)
        scores = _array((len(self.images), len(self.texts)))
        world = 1 if processes is None else processes.world
        for first in range(0, len(blocks), world):  # a block for each process
            group = blocks[first : first + world]
            rank = 0 if processes is None else processes.rank
            own = self._rows(group[rank]) if rank < len(group) else torch.empty(0, len(self.texts))
            rows = own if processes is None else self._gather(own, processes)
            scores[group[0] : group[0] + len(rows)] = rows.numpy()
        return scores

    def _rows(self, first: int) -> Tensor:
        """-> (n, M) on the CPU"""
        device = next(self.model.parameters()).device
        images = self.images.rows(slice(first, first + _IMAGE_BLOCK)).to(device)
        with evaluating(self.model):
            columns = [
                self.model.scores(images, self.texts.rows(slice(text, text + _TEXT_BLOCK)).to(device))
                for text in range(0, len(self.texts), _TEXT_BLOCK)
            ]
        return torch.cat(columns, dim=1).float().cpu()

    @torch.no_grad()
    def rerank(
        self, listed: NDArray[np.int64], of: str, skip: int, k: int, processes: Processes | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The hardest of the candidates in each list (n, K), -1 where there are no more, by the model's scores.

        ``of``: ``"images"``, whose candidates are texts, or ``"texts"``. Leaves out the ``skip`` hardest, and gives the
        next ``k``: candidates (n, k), hardest first, equal scores by lower index, then -1; scores (n, k).
        """
        step = max(1, 4 * _PAIRS // max(1, listed.shape[1]))
        blocks = range(0, len(listed), step)
        own = blocks if processes is None else blocks[processes.share(len(blocks))]
        parts = [self._rerank(torch.from_numpy(listed[first : first + step]).long(), first, of) for first in own]
        width = listed.shape[1]
        found = torch.cat([part[0] for part in parts] or [torch.empty(0, width, dtype=torch.int64)])
        scores = torch.cat([part[1] for part in parts] or [torch.empty(0, width)])
        found, scores = found[:, skip : skip + k].contiguous(), scores[:, skip : skip + k].contiguous()
        if processes is not None:
            found, scores = self._gather(found, processes), self._gather(scores, processes)
        return found.numpy(), scores.numpy()

    def _rerank(self, listed: Tensor, first: int, of: str) -> tuple[Tensor, Tensor]:
        """listed: (b, K) of the anchors from ``first`` on -> candidates and scores (b, K), hardest first"""
        listed = listed.sort(dim=1).values  # so that a stable sort keeps equal scores by index
        row, column = torch.nonzero(listed >= 0).unbind(1)
        candidate = listed[row, column]
        scores = torch.full(listed.shape, -torch.inf)
        for start in range(0, len(row), _PAIRS):
            some = slice(start, start + _PAIRS)
            sides = [first + row[some], candidate[some]]
            image, text = sides if of == "images" else sides[::-1]
            scores[row[some], column[some]] = self._pairs(image, text)
        order = scores.argsort(dim=1, descending=True, stable=True)
        return listed.gather(1, order), scores.gather(1, order)

    def _pairs(self, image: Tensor, text: Tensor) -> Tensor:
        """-> (p,) on the CPU"""
        device = next(self.model.parameters()).device
        images, texts = _take(self.images, image).to(device), _take(self.texts, text).to(device)
        with evaluating(self.model):
            return self.model.pair_scores(images, texts).float().cpu()

    def _gather(self, rows: Tensor, processes: Processes) -> Tensor:
        """The rows of every process, on the CPU."""
        device = next(self.model.parameters()).device
        return processes.gather(rows.to(device)).cpu()


def pooled(features: PackedFeatures) -> Tensor:
    """(N, D): the mean of an item's fragments, L2-normalised; what candidates for `ScoredSplit.rerank` are found by."""
    item = torch.repeat_interleave(features.lengths)
    total = torch.zeros(len(features), features.values.shape[1]).index_add_(0, item, features.values.float())
    return F.normalize(total, dim=1)


def _take(features: PackedFeatures, index: Tensor) -> Features:
    """Items in any order, padded to the longest of them."""
    lengths = features.lengths[index]
    firsts = features.firsts[index]
    place = torch.arange(int(lengths.max()) if len(lengths) else 0)
    inside = place < lengths[:, None]  # (p, L)
    rows = torch.where(inside, firsts[:, None] + place, 0)
    return Features(features.values[rows].masked_fill(~inside[..., None], 0.0), lengths)


def _array(shape: tuple[int, int]) -> NDArray[np.float32]:
    if shape[0] * shape[1] <= _IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile() as file:  # it goes when the map does
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
