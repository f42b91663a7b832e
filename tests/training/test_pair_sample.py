"""Similarities of a sample of training pairs agree with a loop."""

from __future__ import annotations

import numpy as np
import pytest

from aoq_ext.training.pair_sample import PairSample
from tests.tiny_data import noise_pictures


class OneHot:
    """A model that sees an image's mean colour and reads a caption's image number."""

    def embed_images(self, images):
        import torch

        return torch.from_numpy(images.reshape(len(images), -1)[:, :4].astype(np.float32) / 255)

    def embed_texts(self, captions):
        import torch

        return torch.tensor([[float(caption.split()[1]), 1.0, 0.0, 0.0] for caption in captions])


def test_similarities_agree_with_a_loop() -> None:
    data = noise_pictures(20)
    lists = np.random.default_rng(1).integers(0, 40, (20, 6)).astype(np.int32)
    lists[:, 4:] = -1
    sample = PairSample.draw(data, lists, top_texts=5, batch_size=8, seed=0)
    assert len(sample.image) == 16
    assert (data.caption_image[sample.caption] == sample.image).all()
    assert all(caption in lists[image, :4] for image, caption in zip(sample.image, sample.offline))

    model = OneHot()
    images = model.embed_images(data.images).numpy()
    texts = model.embed_texts(data.captions).numpy()
    got = sample.similarities(model, data)
    for place, (image, caption, offline) in enumerate(zip(sample.image, sample.caption, sample.offline)):
        batch = slice(place // 8 * 8, place // 8 * 8 + 8)
        rivals = [
            images[image] @ texts[other]
            for other, owner in zip(sample.caption[batch], sample.image[batch])
            if data.group_ids[owner] != data.group_ids[image]
        ]
        assert got.positive[place] == pytest.approx(images[image] @ texts[caption], rel=1e-5)
        assert got.offline[place] == pytest.approx(images[image] @ texts[offline], rel=1e-5)
        assert got.online[place] == pytest.approx(max(rivals), rel=1e-5)
