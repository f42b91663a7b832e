"""Batches of mined neighbours: pairs, and pairs that own their hard negatives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from .._scalars import as_float, as_int
from .sampler import OfflineNegativeSampler

Indices = NDArray[np.int64]

_DRAWS = 3  # of negatives for a pair, before the places that are left are filled at random
_NEXT_DRAW = 1 << 48  # from one draw of a step to the next: more than a run has steps


def owners_in(batch_size: int, share: float) -> int:
    """How many pairs of a batch own negatives of the others; at least one pair is left that does not."""
    return min(round(batch_size * share), batch_size - 1)


def add_owners(
    negatives: OfflineNegativeSampler, image: Indices, text: Indices, count: int, step: int, seed: int = 0
) -> tuple[Indices, Indices]:
    """The pairs (image, text), each (b,), and after them ``count`` that own mined negatives of theirs.

    By turns the image that a pair's hard text belongs to, with that text, and a pair's hard image, with one of its
    texts. No image comes twice. Where the draws for all pairs give too few, others follow at random. A function of its
    arguments alone.
    """
    total = len(image) + count
    found, even = (image, text), torch.arange(len(image)) % 2 == 0
    for turn in range(_DRAWS):
        drawn = negatives.draw(torch.from_numpy(image), torch.from_numpy(text), step + turn * _NEXT_DRAW)
        of_text = torch.stack([drawn.hard_text_image, drawn.hard_text])  # (2, b)
        of_image = torch.stack([drawn.hard_image, drawn.hard_image_text])
        for owners in (torch.where(even, of_text, of_image), torch.where(even, of_image, of_text)):
            found = _first_times(found, owners.numpy())
        if len(found[0]) >= total:
            break
    else:
        generator = np.random.default_rng((seed, step))
        random = generator.permutation(len(negatives.hard_text))[:total]
        found = _first_times(found, (random, random_texts(negatives, random, generator)))
    return found[0][:total], found[1][:total]


def _first_times(*pairs: tuple[Indices, Indices] | Indices) -> tuple[Indices, Indices]:
    """Pairs (image, text), one group after the other, without those whose image came before."""
    image, text = (np.concatenate(side) for side in zip(*pairs, strict=True))
    first = np.sort(np.unique(image, return_index=True)[1])
    return image[first], text[first]


def random_texts(negatives: OfflineNegativeSampler, image: Indices, generator: np.random.Generator) -> Indices:
    """(b,) -> (b,): a text of each image, all equally likely"""
    at = torch.from_numpy(image)
    place = torch.from_numpy(generator.integers(negatives.count_texts(at).numpy()))
    chosen: Indices = negatives.text_of(at, place).numpy()
    return chosen


class HardNegativeBatchSampler(Sampler[list[int]]):
    """Batches for any loss with negatives of the batch, which then meets mined negatives and encodes nothing more.

    ``batch_size - owners`` pairs of a batch are drawn as ever: in a pass over the images each comes once, in random
    order. The other pairs own mined negatives of these: the hard text of an image comes with the image it belongs to,
    the hard image of a text with a text of its own. A pair is a text and its image, so a batch is a list of text
    indices, for a `torch.utils.data.DataLoader` over the texts (``batch_sampler=``).

    Batches are a function of (seed, epoch, place in it): `set_epoch` before each epoch, as of a `DistributedSampler`.

    Args:
        negatives: the mined lists, as training draws from them.
        batch_size: B, 2 or more.
        share: of a batch that owns negatives of the rest, in [0, 1); 0: batches as ever.
        seed: of the order, 0 or more.

    Raises:
        TypeError, ValueError: an argument is of another kind, or out of range.

    Example:
        >>> hard_text, hard_image = torch.tensor([[1], [0], [1]]), torch.tensor([[1], [0], [1]])
        >>> negatives = OfflineNegativeSampler(hard_text, hard_image, torch.tensor([0, 1, 2]))
        >>> batches = HardNegativeBatchSampler(negatives, batch_size=2, share=0.5)
        >>> [sorted(batch) for batch in batches] in ([[0, 1]], [[1, 2]])  # 0 and 1 are each other's, 1 is that of 2
        True
    """

    def __init__(self, negatives: OfflineNegativeSampler, batch_size: int, share: float = 0.5, seed: int = 0) -> None:
        self.negatives = negatives
        self.batch_size = as_int("batch_size", batch_size)
        images = len(negatives.hard_text)
        if not 2 <= self.batch_size <= images:
            raise ValueError(f"batch_size must be from 2 to the number of images, {images}, got {batch_size}")
        self.share = as_float("share", share)
        if not 0 <= self.share < 1:
            raise ValueError(f"share must be in [0, 1), got {share}")
        self.seed = as_int("seed", seed)
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self.owners = owners_in(self.batch_size, self.share)
        self.epoch = 0
        self._order: tuple[int, Indices] | None = None  # of the images in the pass with this number

    def set_epoch(self, epoch: int) -> None:
        """Of the batches that the next iteration gives, from 0."""
        self.epoch = as_int("epoch", epoch)
        if self.epoch < 0:
            raise ValueError(f"epoch must be 0 or more, got {epoch}")

    def __len__(self) -> int:
        """As many batches as an epoch of ordinary ones has."""
        return len(self.negatives.hard_text) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for index in range(len(self)):
            yield self.batch(self.epoch * len(self) + index)

    def batch(self, step: int) -> list[int]:
        """The texts of the pairs of batch ``step``, counted from 0 over all epochs."""
        images = len(self.negatives.hard_text)
        own = self.batch_size - self.owners
        number, place = divmod(as_int("step", step), images // own)
        if self._order is None or self._order[0] != number:
            self._order = number, np.random.default_rng((self.seed, number)).permutation(images)
        image = self._order[1][place * own : (place + 1) * own]
        text = random_texts(self.negatives, image, np.random.default_rng((self.seed, number, place)))
        if self.owners:
            text = add_owners(self.negatives, image, text, self.owners, step, self.seed)[1]
        chosen: list[int] = text.tolist()
        return chosen
