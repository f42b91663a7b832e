"""A fixed sample of training pairs and their negatives, so that two models are measured on the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aoq_ext.data import ImageTextData

_MOST_PAIRS = 8192

Indices = NDArray[np.int64]


class Embedder(Protocol):
    """What is asked of a trained model."""

    def embed_images(self, images: np.ndarray) -> Tensor: ...

    def embed_texts(self, captions: list[str]) -> Tensor: ...


@dataclass(frozen=True)
class PairSimilarities:
    """Similarities of the same N training pairs, seen through one model."""

    positive: NDArray[np.float32]  # (N,) image and its own caption
    online: NDArray[np.float32]  # (N,) image and the hardest wrong caption of a random batch
    offline: NDArray[np.float32]  # (N,) image and a wrong caption drawn from its mined list


@dataclass(frozen=True)
class PairSample:
    """N pairs in whole batches."""

    image: Indices  # (N,)
    caption: Indices  # (N,) one of the image's own
    offline: Indices  # (N,) a caption from the image's mined list
    batch_size: int

    @classmethod
    def draw(
        cls, data: ImageTextData, hard_texts: NDArray[np.int32], top_texts: int, batch_size: int, seed: int
    ) -> PairSample:
        """Each image at most once, with one of its captions and one of the `top_texts` hardest, both drawn evenly.

        hard_texts: (N, k) as mined, −1 where there are no more.
        """
        generator = np.random.default_rng(seed)
        batch_size = min(batch_size, len(data))
        count = min(len(data), _MOST_PAIRS) // batch_size * batch_size
        image = generator.permutation(len(data))[:count]
        first = np.searchsorted(data.caption_image, image)
        own = np.searchsorted(data.caption_image, image, side="right") - first
        lists = hard_texts[image, :top_texts]
        places = (generator.random(count) * (lists >= 0).sum(axis=1)).astype(np.int64)
        caption = first + (generator.random(count) * own).astype(np.int64)
        return cls(image, caption, lists[np.arange(count), places].astype(np.int64), batch_size)

    def similarities(self, model: Embedder, data: ImageTextData) -> PairSimilarities:
        images = model.embed_images(data.images[self.image]).cpu()  # (N, D)
        texts = _embed(model, [data.captions[caption] for caption in self.caption])
        offline = _embed(model, [data.captions[caption] for caption in self.offline])
        groups = torch.from_numpy(data.group_ids[self.image])
        online = []
        for image, text, group in zip(
            images.split(self.batch_size), texts.split(self.batch_size), groups.split(self.batch_size), strict=True
        ):
            scores = (image @ text.T).masked_fill(group[:, None] == group[None, :], -torch.inf)
            online.append(scores.amax(dim=1))
        return PairSimilarities(
            positive=(images * texts).sum(dim=1).numpy(),
            online=torch.cat(online).numpy(),
            offline=(images * offline).sum(dim=1).numpy(),
        )


def _embed(model: Embedder, captions: list[str]) -> Tensor:
    """(len(captions), D); captions said several times are embedded once."""
    different, place = np.unique(captions, return_inverse=True)
    return model.embed_texts(different.tolist()).cpu()[torch.from_numpy(place)]
