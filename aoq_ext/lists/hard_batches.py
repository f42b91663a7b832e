"""Batches in which pairs meet the negatives that were mined for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from .._scalars import as_float
from .draws import draw, mix, place, state_of
from .sampler import OfflineNegativeSampler, checked_number

_ORDER, _TEXTS, _OWNERS = range(3)  # what randomness is for
_TRIES = 4  # negatives drawn for one place of a batch, of which the first that is not there yet takes it


class HardNegativeBatchSampler(Sampler[list[int]]):
    """Batches of training pairs for a ``DataLoader``: part of each are the owners of mined negatives of the rest.

    A loss that looks for negatives within the batch, whatever it is, then finds mined ones there, and nothing more is
    encoded than in any batch of this size. A pair is named by its text, whose image follows.

    The *seeds* of a batch come from a random order of the images, each with one of its texts: in an epoch every image
    is a seed once, but for a last incomplete batch, and in turn with each of its texts, epoch by epoch. The *owners*
    are drawn for the seeds in turn: the image that a drawn hard text of the seed belongs to, with that text, or a drawn
    hard image of the seed, with any of its texts, both equally likely. Places of the lists are drawn as
    `OfflineNegativeSampler` draws them. No image is in a batch twice. Where an owner is there already, the next draw
    takes its place and, after four, any pair that is not there.

    Lists keep an owner and its seed in different groups, but two owners, or an owner and another seed, may belong
    together: give the loss the ids of groups (``group_ids``).

    The batch of a step is a function of (seed, step) alone. Nothing needs to be saved: to go on within an epoch, pass
    ``first_batch`` to `set_epoch`. Ranks that share a batch give the same seed, and each takes its part of every batch.

    Args:
        negatives: the lists. Its own seed and step count for nothing here.
        batch_size: pairs of a batch, from 2 to the number of images.
        share: of the batch that are owners, in [0, 1): at least one of them if it is not 0, and at most all but one.
        seed: in [0, 2⁶³).

    Raises:
        TypeError: ``negatives`` is no `OfflineNegativeSampler`, or a number is none.
        ValueError: ``batch_size``, ``share`` or ``seed`` is out of range.

    Example:
        >>> hard_text, hard_image = torch.tensor([[1], [0], [3], [2]]), torch.tensor([[1], [0], [3], [2]])
        >>> negatives = OfflineNegativeSampler(hard_text, hard_image, text_image_index=torch.arange(4))
        >>> batches = HardNegativeBatchSampler(negatives, batch_size=2, share=0.5)
        >>> batches.set_epoch(3)
        >>> sorted(sorted(batch) for batch in batches)  # 0 and 1 are hard for one another, and so are 2 and 3
        [[0, 1], [0, 1], [2, 3], [2, 3]]
    """

    def __init__(
        self, negatives: OfflineNegativeSampler, batch_size: int, *, share: float = 0.5, seed: int = 0
    ) -> None:
        if not isinstance(negatives, OfflineNegativeSampler):
            raise TypeError(f"negatives must be an OfflineNegativeSampler, got {type(negatives).__name__}")
        images = len(negatives.hard_text)
        batch_size = checked_number("batch_size", batch_size, 2)
        if batch_size > images:
            raise ValueError(f"batch_size must be at most {images}, the number of images, got {batch_size}")
        share = as_float("share", share)
        if not 0 <= share < 1:
            raise ValueError(f"share must be in [0, 1), got {share}")
        self.negatives = negatives
        self.batch_size = batch_size
        self.share = share
        self.seed = checked_number("seed", seed, 0)
        self.owners = min(max(round(share * batch_size), 1), batch_size - 1) if share else 0  # of a batch
        self.seeds = batch_size - self.owners  # of a batch
        self.batches_per_epoch = images // self.seeds
        self._epoch, self._first_batch = 0, 0
        self._ordered: tuple[int, Tensor, Tensor] | None = None  # an epoch, its order, its text of each image

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """What iterating yields from now on: ``epoch`` (from 0), without its first ``first_batch``."""
        epoch, first_batch = checked_number("epoch", epoch, 0), checked_number("first_batch", first_batch, 0)
        if first_batch > self.batches_per_epoch:
            raise ValueError(f"first_batch must be at most {self.batches_per_epoch}, got {first_batch}")
        self._epoch, self._first_batch = epoch, first_batch

    def __len__(self) -> int:
        return self.batches_per_epoch - self._first_batch

    def __iter__(self) -> Iterator[list[int]]:
        first = self._epoch * self.batches_per_epoch
        return map(self.batch, range(first + self._first_batch, first + self.batches_per_epoch))

    def batch(self, step: int) -> list[int]:
        """The ``batch_size`` pairs (texts) of ``step``, counted from 0 over all epochs: seeds, then owners."""
        epoch, index = divmod(checked_number("step", step, 0), self.batches_per_epoch)
        order, text_of_image = self._order(epoch)
        image = order[index * self.seeds : (index + 1) * self.seeds]
        text = text_of_image[image]
        return text.tolist() + (self._draw_owners(image, text, text_of_image, step) if self.owners else [])

    def _order(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The images in the order of ``epoch`` (N,), and the text that each has in it (N,)."""
        if self._ordered is None or self._ordered[0] != epoch:
            images = torch.arange(len(self.negatives.hard_text), device=self.negatives.hard_text.device)
            order = torch.argsort(mix(state_of(self.seed, _ORDER, epoch) ^ images))  # no two alike: mix is one to one
            first = draw(state_of(self.seed, _TEXTS, images), 0)  # (N,) a start, from which the epochs go round
            self._ordered = epoch, order, self.negatives.text_of(images, first, epoch)
        return self._ordered[1:]

    def _draw_owners(self, image: Tensor, text: Tensor, text_of_image: Tensor, step: int) -> list[int]:
        """image, text: (S,) the seeds -> as many texts as a batch has owners"""
        number = torch.arange(_TRIES * self.owners, device=image.device)
        seed = number % self.owners % self.seeds  # a try after the other, the seeds in turn
        state = state_of(self.seed, _OWNERS, step, number)
        hard_text, _, _, hard_image_text = self.negatives.choose(image[seed], text[seed], state)
        drawn = torch.where(draw(state, 3) >> 31 == 0, hard_text, hard_image_text)
        images = self.negatives.text_image_index
        tries = torch.stack([images[drawn], drawn], dim=1).view(_TRIES, self.owners, 2).transpose(0, 1).tolist()
        starts = place(draw(state[: self.owners], 4), len(text_of_image)).tolist()
        taken, chosen = set(image.tolist()), []
        for start, candidates in zip(starts, tries, strict=True):
            owner, caption = next((pair for pair in candidates if pair[0] not in taken), (start, None))
            while owner in taken:
                owner = (owner + 1) % len(text_of_image)
            taken.add(owner)
            chosen.append(int(text_of_image[owner]) if caption is None else caption)
        return chosen

    def __repr__(self) -> str:
        return (
            f"HardNegativeBatchSampler({self.seeds} seeds and {self.owners} owners a batch, seed={self.seed}, "
            f"{self.negatives})"
        )
