"""Training batches: every image once an epoch, with one of its captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aoq_ext.lists import HardNegativeBatchSampler, OfflineNegativeSampler
from aoq_ext.training import streams
from aoq_ext.training.config import ConfigError

Indices = NDArray[np.int64]


class CaptionsOfImages:
    """The captions that belong to each image, for drawing one of them."""

    def __init__(self, caption_image: Indices, images: int) -> None:
        """caption_image: (M,) the image of each caption"""
        self.count = np.bincount(caption_image, minlength=images)  # (N,)
        if (self.count == 0).any():
            raise ValueError(
                f"caption_image: every image needs a caption, but image {int(self.count.argmin())} has none"
            )
        self._captions = np.argsort(caption_image, kind="stable")  # (M,) grouped by image
        self._first = np.cumsum(self.count) - self.count  # (N,) where each image's group starts

    def draw(self, image: Indices, generator: np.random.Generator) -> Indices:
        """image: (B,) -> (B,) a caption of each, every one equally likely"""
        chosen: Indices = self._captions[self._first[image] + generator.integers(self.count[image])]
        return chosen


@dataclass(frozen=True)
class Batch:
    """The pairs of one step, or some of them."""

    step: int  # from 0, over the whole run
    image: Indices  # (B,)
    caption: Indices  # (B,)

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, rows: slice) -> Batch:
        """Some of its pairs."""
        return Batch(self.step, self.image[rows], self.caption[rows])

    def parts(self, count: int) -> list[Batch]:
        """As many batches of equal size; ``count`` divides B."""
        size = len(self) // count
        return [self.rows(slice(first, first + size)) for first in range(0, len(self), size)]


class PairBatches:
    """The order of the pairs, a pure function of (seed, epoch).

    A step shows ``accumulate`` batches of ``batch_size`` pairs, one after the other. The images left over when N is not
    a multiple of that sit this epoch out: the loss grows with the batch, and a small last one would count for less.

    Hard batches (see `hard`) take their pairs from `HardNegativeBatchSampler` instead, by the number of the batch in
    the whole run. An epoch keeps its number of steps, so the seeds of one go through a part of the images only.
    """

    def __init__(self, captions: CaptionsOfImages, batch_size: int, seed: int, accumulate: int = 1) -> None:
        self.captions = captions
        self.images = len(captions.count)
        self.batch_size = min(batch_size, self.images)
        self.accumulate = accumulate
        self.step_size = self.batch_size * accumulate  # pairs of one step
        if self.step_size > self.images:
            raise ConfigError(
                f"accumulate: expected at most {self.images // batch_size}, since an epoch has {self.images} images "
                f"and a batch {batch_size}, got {accumulate}"
            )
        self.steps_per_epoch = self.images // self.step_size
        self.seed = seed

    def hard(self, negatives: OfflineNegativeSampler, share: float) -> HardNegativeBatchSampler:
        """Batches of this size in which ``share`` are owners of mined negatives."""
        return HardNegativeBatchSampler(
            negatives, self.batch_size, share=share, seed=streams.hard_batches_seed(self.seed)
        )

    def epoch(self, epoch: int, first_step: int = 0, hard: HardNegativeBatchSampler | None = None) -> Iterator[Batch]:
        """The pairs of every step of ``epoch`` (from 0), without its first ``first_step``."""
        if hard is not None:
            for step in range(epoch * self.steps_per_epoch + first_step, (epoch + 1) * self.steps_per_epoch):
                numbers = range(step * self.accumulate, (step + 1) * self.accumulate)
                pairs = np.array([hard.batch(number) for number in numbers], np.int64).ravel()
                yield Batch(step, hard.negatives.text_image_index.numpy()[pairs], pairs)
            return
        order = streams.generator(self.seed, streams.ORDER, epoch).permutation(self.images)
        caption = self.captions.draw(order, streams.generator(self.seed, streams.CAPTIONS, epoch))
        for index in range(first_step, self.steps_per_epoch):
            rows = slice(index * self.step_size, (index + 1) * self.step_size)
            yield Batch(epoch * self.steps_per_epoch + index, order[rows], caption[rows])
