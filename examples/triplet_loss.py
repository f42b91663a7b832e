"""The hardest negatives inside a triplet loss of your own, on the bundled icons: `python triplet_loss.py`.

`aoq_ext.hardest_negatives` only selects. The score matrix is never stored and nothing is differentiated: gather the
chosen rows, score them again, and autograd does the rest. Wants the packages of `pip install 'aoq_ext[train]'`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import aoq_ext
from aoq_ext.data import ImageTextData, Vocabulary, load_icons
from aoq_ext.encoders import ConvEncoder, GRUEncoder
from aoq_ext.metrics import retrieval_metrics

Encoders = tuple[nn.Module, nn.Module]


def triplet_loss(
    image: Tensor,  # (B, D)
    text: Tensor,  # (B, D)
    group_ids: Tensor | None = None,  # (B,)
    margin: float = 0.2,
) -> Tensor:  # ()
    """The sum over both directions of [margin + hardest negative − positive]₊, a pair without a negative giving 0."""
    chosen = aoq_ext.hardest_negatives(image, text, group_ids)
    positive = (image * text).sum(1)
    hardest_text = (image * text[chosen.text_index]).sum(1)
    hardest_image = (image[chosen.image_index] * text).sum(1)
    text_hinge = (margin + hardest_text - positive).relu()
    image_hinge = (margin + hardest_image - positive).relu()
    # Index −1 says that there is no negative, but to PyTorch it is the last row: leave out what came of it.
    text_hinge = text_hinge.where(chosen.text_index >= 0, 0.0)
    image_hinge = image_hinge.where(chosen.image_index >= 0, 0.0)
    return (text_hinge + image_hinge).sum()


def load(concepts: int) -> tuple[ImageTextData, ImageTextData]:
    """The same concepts in the training sets and in a set that is never trained on."""
    train, unseen = load_icons("train"), load_icons("test_iconoir")
    known = np.flatnonzero(np.isin(unseen.group_ids, train.group_ids))
    unseen = unseen.subset(known[:concepts])
    return train.subset(np.flatnonzero(np.isin(train.group_ids, unseen.group_ids))), unseen


def pixels(data: ImageTextData, rows: Tensor | slice) -> Tensor:  # (B, 1, 32, 32) in [-1, 1]
    return torch.from_numpy(data.images[rows]).float() / 127.5 - 1


@torch.no_grad()
def recall(encoders: Encoders, data: ImageTextData, vocabulary: Vocabulary) -> float:
    """The share of captions, in percent, whose picture is among the ten that score highest."""
    image_encoder, text_encoder = (encoder.eval() for encoder in encoders)
    image = image_encoder(pixels(data, slice(None)))
    text = text_encoder(*vocabulary.encode(data.captions))
    return retrieval_metrics(image, text, torch.from_numpy(data.caption_image))["t2i_r10"]


def main(
    steps: int = 120, batch_size: int = 128, concepts: int = 200, warm_up: int = 40, seed: int = 0
) -> tuple[float, float]:
    """Train, and return the recall on the unseen set before and after."""
    torch.manual_seed(seed)
    train, unseen = load(concepts)
    vocabulary = Vocabulary.build(train.captions)
    tokens, lengths = vocabulary.encode(train.captions)
    owner = torch.from_numpy(train.caption_image)
    groups = torch.from_numpy(train.group_ids)

    encoders = ConvEncoder(dim=64, in_channels=1), GRUEncoder(len(vocabulary), dim=64)
    before = recall(encoders, unseen, vocabulary)
    optimiser = torch.optim.Adam([p for encoder in encoders for p in encoder.parameters()], lr=2e-3)
    # Hardest negatives alone, from random weights, often collapse: all negatives first (docs/negatives.md).
    all_negatives = aoq_ext.AdaptiveQuintupletLoss(objective="online_triplet", online="all")
    image_encoder, text_encoder = (encoder.train() for encoder in encoders)
    for step in range(steps):
        captions = torch.randint(len(owner), (batch_size,))
        images = owner[captions]
        image = image_encoder(pixels(train, images))
        text = text_encoder(tokens[captions], lengths[captions])
        # Pictures and captions of one concept are never each other's negatives.
        if step < warm_up:
            loss = all_negatives(image, text, group_ids=groups[images])
        else:
            loss = triplet_loss(image, text, groups[images])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = recall(encoders, unseen, vocabulary)
    print(f"R@10 of {len(unseen.captions)} captions among {len(unseen)} unseen pictures: {before:.1f} → {after:.1f} %")
    return before, after


if __name__ == "__main__":
    main()
