"""Embedding a whole data set, a batch at a time, each process its share of the batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from aoq_ext._scalars import as_int
from aoq_ext.parallel import ALONE, Processes
from aoq_ext.training.model import Model


@torch.no_grad()
def embed_images(model: Model, images: np.ndarray, batch_size: int = 512, processes: Processes = ALONE) -> Tensor:
    """images: (N, ...), possibly a memory map -> (N, D) float32, on its device, the model in evaluation mode.

    With ``processes``, which all call this, each embeds some of the batches and gets the rows of all: the batches, and
    so the bits, are those of one process.
    """
    device = next(model.parameters()).device

    def embed(first: int) -> Tensor:
        rows = np.array(images[first : first + batch_size])
        if not len(rows):  # a stand-in, of which no row is kept
            rows = np.zeros((1, *images.shape[1:]), dtype=images.dtype)
        return model.encode_images(torch.from_numpy(rows).to(device)).values

    return _in_batches(model, embed, len(images), batch_size, processes)


@torch.no_grad()
def embed_texts(
    model: Model, tokens: Tensor, lengths: Tensor, batch_size: int = 2048, processes: Processes = ALONE
) -> Tensor:
    """tokens: (M, L); lengths: (M,) -> (M, D) float32, likewise."""
    device = next(model.parameters()).device

    def embed(first: int) -> Tensor:
        length, part = lengths[first : first + batch_size], tokens[first : first + batch_size]
        if not len(length):  # a stand-in, of which no row is kept
            length, part = lengths.new_ones(1), tokens.new_zeros(1, 1)
        part = part[:, : int(length.max())]
        return model.encode_texts(part.to(device), length.to(device)).values

    return _in_batches(model, embed, len(tokens), batch_size, processes)


def _in_batches(
    model: Model, embed: Callable[[int], Tensor], count: int, batch_size: int, processes: Processes
) -> Tensor:
    batch_size = as_int("batch_size", batch_size)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    batches = range(0, count, batch_size)
    own = batches[processes.share(len(batches))]
    with evaluating(model):
        parts = [embed(first).float() for first in own] or [embed(0)[:0].float()]
    return processes.gather(torch.cat(parts))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
