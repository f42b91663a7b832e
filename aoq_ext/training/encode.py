"""A whole data set under a model: the features of both sides, their vectors, every score, or those of some pairs.

Features of several fragments are held on the CPU, without padding, and in a file where there are many; scores are made
a block at a time. Batches and blocks are the same whatever the number of processes, which share them, and so are
features and scores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from aoq_ext._scalars import as_int
from aoq_ext.encoders.feature_store import FeatureStore
from aoq_ext.encoders.model import Features
from aoq_ext.encoders.score_matrix import PackedFeatures, score_matrix
from aoq_ext.parallel import ALONE, Processes
from aoq_ext.training.model import Model
from aoq_ext.training.pairs import EncodedPairs

_IMAGE_BLOCK = 64  # images whose scores with all texts are made together; what processes share
_TEXT_BLOCK = 512
_TEXTS = 256  # texts of about one length that an image is scored with together
_POOLED = 4096  # items pooled together
_EXCHANGED = 64  # batches of vectors that a process keeps until it exchanges them; of fragments, none
_IN_MEMORY = 1 << 27  # scores; more of them are kept in a file
_FEATURES_IN_MEMORY = 1 << 30  # bytes of either side; more of them are kept in a file


def encode_images(
    model: Model,
    images: NDArray[np.generic],  # (N, ...), possibly a memory map
    batch_size: int = 512,
    processes: Processes = ALONE,
    folder: Path | None = None,
) -> PackedFeatures:  # of N
    """The features of images, the model in evaluation mode: vectors in float32 on its device, others on the CPU.

    With ``processes``, which all call this, each encodes some of the batches and gets the rows of all: the batches, and
    so the bits, are those of one process. ``folder``: where features go that are too many for memory; by default where
    temporary files are.
    """
    device = device_of(model)

    def encode(rows: slice) -> Features:
        some = np.array(images[rows])
        if not len(some):  # a stand-in, of which no row is kept
            some = np.zeros((1, *images.shape[1:]), dtype=images.dtype)
        return model.encode_images(torch.from_numpy(some).to(device))

    return _in_batches(model, encode, len(images), batch_size, processes, folder)


def encode_texts(
    model: Model,
    tokens: Tensor,  # (M, L)
    lengths: Tensor,  # (M,)
    batch_size: int | None = None,  # by default 2048 where a text becomes a vector, else 512
    processes: Processes = ALONE,
    folder: Path | None = None,
) -> PackedFeatures:  # of M
    """The features of texts, likewise."""
    device = device_of(model)

    def encode(rows: slice) -> Features:
        length, some = lengths[rows], tokens[rows]
        if not len(length):  # a stand-in, of which no row is kept
            length, some = lengths.new_ones(1), tokens.new_zeros(1, 1)
        return model.encode_texts(some[:, : int(length.max())].to(device), length.to(device))

    if batch_size is None:
        batch_size = 2048 if model.embeds else 512
    return _in_batches(model, encode, len(tokens), batch_size, processes, folder)


@torch.no_grad()
def _in_batches(
    model: Model,
    encode: Callable[[slice], Features],
    count: int,
    batch_size: int,
    processes: Processes,
    folder: Path | None,
) -> PackedFeatures:
    batch_size = as_int("batch_size", batch_size)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    def batch(first: int) -> Features:
        rows = slice(first, min(first + batch_size, count))
        features = encode(rows).full_precision().rows(slice(0, rows.stop - first))
        return Features(features.values.float()) if model.embeds else features

    def shares() -> Iterator[Features]:
        """This process's batches of every group, or at the end none."""
        firsts, size = range(0, max(1, count), batch_size), processes.world * (_EXCHANGED if model.embeds else 1)
        for start in range(0, len(firsts), size):
            group = firsts[start : start + size]
            own = group[processes.share(len(group))] or [count]
            yield Features.concatenate([batch(first) for first in own])

    store = FeatureStore(_FEATURES_IN_MEMORY, folder, processes, device_of(model) if model.embeds else "cpu")
    with evaluating(model):
        return PackedFeatures(shares(), store)


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """A data set's features, and the model that makes scores of them."""

    model: Model
    images: PackedFeatures  # N
    texts: PackedFeatures  # M

    @classmethod
    def of(
        cls, model: Model, pairs: EncodedPairs, processes: Processes = ALONE, folder: Path | None = None
    ) -> EncodedSplit:
        """``processes``, ``folder``: see `encode_images`."""
        images = encode_images(model, pairs.data.images, processes=processes, folder=folder)
        return cls(model, images, encode_texts(model, pairs.tokens, pairs.lengths, None, processes, folder))

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    def vectors(self, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
        """(N, D) and (M, D), on the model's device: by their products are the scores, or, where the model itself makes
        these, the candidates for them (an item is then the mean of its fragments, L2-normalised)."""
        if self.model.embeds:
            return self.images.values, self.texts.values
        images, texts = (_pooled(side, self.device, processes).to(self.device) for side in (self.images, self.texts))
        return images, texts

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


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def gathered(rows: Tensor, device: torch.device, processes: Processes) -> Tensor:
    """The rows of every process in rank order, on the CPU; ``device`` is where processes exchange."""
    return rows if processes.alone else processes.gather(rows.to(device)).cpu()


def _pooled(features: PackedFeatures, device: torch.device, processes: Processes) -> Tensor:
    """(N, D) on the CPU"""
    share = processes.share(len(features))
    means = torch.zeros(share.stop - share.start, features.values.shape[1], dtype=torch.float32, device="cpu")
    for first in range(share.start, share.stop, _POOLED):
        last = min(first + _POOLED, share.stop)
        item = torch.repeat_interleave(features.lengths[first:last])
        values = features.values[int(features.firsts[first]) : int(features.firsts[last])].float()
        means[first - share.start : last - share.start].index_add_(0, item, values)
    return gathered(F.normalize(means, dim=1, out=means), device, processes)


def _array(shape: tuple[int, int]) -> NDArray[np.float32]:
    if shape[0] * shape[1] <= _IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile() as file:  # it goes when the map does
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
