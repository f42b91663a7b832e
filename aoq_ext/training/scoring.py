"""A whole data set under a model that matches by scores: every score, or those of some pairs.

Features are held on the CPU, without padding, and in a file where there are many; scores are made a block at a time.
Batches and blocks are the same whatever the number of processes, which share them, and so are features and scores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aoq_ext.encoders.feature_store import FeatureStore
from aoq_ext.encoders.model import Features
from aoq_ext.encoders.score_matrix import PackedFeatures, score_matrix
from aoq_ext.parallel import ALONE, Processes
from aoq_ext.training.embed import evaluating
from aoq_ext.training.feature_file import SharedFeatureStore
from aoq_ext.training.features import full_precision
from aoq_ext.training.model import Model
from aoq_ext.training.pairs import EncodedPairs

_IMAGE_BLOCK = 64  # images whose scores with all texts are made together; what processes share
_TEXT_BLOCK = 512
_TEXTS = 256  # texts of about one length that an image is scored with together
_POOLED = 4096  # items pooled together
_IN_MEMORY = 1 << 27  # scores; more of them are kept in a file
_FEATURES_IN_MEMORY = 1 << 30  # bytes of either side; more of them are kept in a file


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """A data set's features, and the model that makes scores of them."""

    model: Model
    images: PackedFeatures  # N
    texts: PackedFeatures  # M

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        model: Model,
        pairs: EncodedPairs,
        batch_size: int = 512,
        processes: Processes = ALONE,
        folder: Path | None = None,
    ) -> ScoredSplit:
        """With ``processes``, which all call this, each encodes some of the batches.

        ``folder``: where features go that are too many for memory; by default where temporary files are.
        """
        device = next(model.parameters()).device

        def images(rows: slice) -> Features:
            return model.encode_images(torch.from_numpy(np.array(pairs.data.images[rows])).to(device))

        def texts(rows: slice) -> Features:
            length = pairs.lengths[rows]
            return model.encode_texts(pairs.tokens[rows, : int(length.max())].to(device), length.to(device))

        def encoded(encode: Callable[[slice], Features], count: int) -> Iterator[Features]:
            for rows in _own_batches(count, batch_size, processes):
                size = rows.stop - rows.start
                yield full_precision(encode(rows if size else slice(0, 1))).rows(slice(0, size))

        def store() -> FeatureStore:
            if processes.alone:
                return FeatureStore(_FEATURES_IN_MEMORY, folder)
            return SharedFeatureStore(processes, _FEATURES_IN_MEMORY, folder)

        with evaluating(model):
            return cls(
                model,
                PackedFeatures(encoded(images, len(pairs.data.images)), store=store()),
                PackedFeatures(encoded(texts, len(pairs.tokens)), store=store()),
            )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def matrix(self, processes: Processes = ALONE) -> NDArray[np.float32]:
        """(N, M): every score; in a temporary file, memory-mapped, where there are many."""
        blocks = range(0, len(self.images), _IMAGE_BLOCK)
        scores = _array((len(self.images), len(self.texts)))
        for first in range(0, len(blocks), processes.world):  # a block for each process
            group = blocks[first : first + processes.world]
            nothing = torch.empty(0, len(self.texts), dtype=torch.float32, device="cpu")
            own = self._rows(group[processes.rank]) if processes.rank < len(group) else nothing
            rows = gathered(own, self.device, processes)
            scores[group[0] : group[0] + len(rows)] = rows.numpy()
        return scores

    def _rows(self, first: int) -> Tensor:
        """-> (n, M) on the CPU"""
        images = self.images.rows(slice(first, first + _IMAGE_BLOCK))
        with evaluating(self.model):
            return score_matrix(self.model, images, self.texts, _IMAGE_BLOCK, _TEXT_BLOCK)

    @torch.no_grad()
    def of_image(self, image: int, texts: Tensor) -> Tensor:
        """The scores of an image and some texts (n,): (n,) on the CPU; their bits depend on this list alone."""
        features = self.images.rows(slice(image, image + 1)).to(self.device)
        longest_first = self.texts.lengths[texts].argsort(descending=True, stable=True)
        scores = torch.empty(len(texts), dtype=torch.float32, device=self.device)
        with evaluating(self.model):
            for some in longest_first.split(_TEXTS):
                part = self.model.scores(features, self.texts.rows(texts[some]).to(self.device))
                scores[some.to(self.device)] = part[0].float()
        return scores.cpu()


def pooled(features: PackedFeatures, device: torch.device, processes: Processes = ALONE) -> Tensor:
    """(N, D): the mean of an item's fragments, L2-normalised; what candidates for `rerank` are found by."""
    share = processes.share(len(features))
    means = torch.zeros(share.stop - share.start, features.values.shape[1], dtype=torch.float32, device="cpu")
    for first in range(share.start, share.stop, _POOLED):
        last = min(first + _POOLED, share.stop)
        item = torch.repeat_interleave(features.lengths[first:last])
        values = features.values[int(features.firsts[first]) : int(features.firsts[last])].float()
        means[first - share.start : last - share.start].index_add_(0, item, values)
    return gathered(F.normalize(means, dim=1, out=means), device, processes)


def gathered(rows: Tensor, device: torch.device, processes: Processes) -> Tensor:
    """The rows of every process in rank order, on the CPU; ``device`` is where processes exchange."""
    return rows if processes.alone else processes.gather(rows.to(device)).cpu()


def _own_batches(count: int, size: int, processes: Processes) -> Iterator[slice]:
    """The rows of this process's batches: of every ``world`` batches one, or at the end none."""
    for first in range(0, count, size * processes.world):
        start = min(first + size * processes.rank, count)
        yield slice(start, min(start + size, count))


def _array(shape: tuple[int, int]) -> NDArray[np.float32]:
    if shape[0] * shape[1] <= _IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile() as file:  # it goes when the map does
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
