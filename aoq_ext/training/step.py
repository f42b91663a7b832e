"""One training step's forward pass: which rows an objective looks at, and their embeddings."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from aoq_ext.mining.sampler import OfflineNegativeSampler
from aoq_ext.training.batches import Batch
from aoq_ext.training.diagnostics import StepEmbeddings
from aoq_ext.training.pairs import EncodedPairs


def embed_batch(
    model: nn.Module,
    pairs: EncodedPairs,
    sampler: OfflineNegativeSampler | None,
    batch: Batch,
    objective: str,
    device: torch.device,
) -> StepEmbeddings:
    """Encode the pairs, and the offline negatives that ``objective`` needs, in one pass through each encoder.

    ``model`` is a `DualEncoder` or a wrapper of one.
    """
    images, texts = [batch.image], [batch.caption]
    if objective != "online_triplet":
        assert sampler is not None  # the configuration was checked
        draw = sampler.draw(torch.from_numpy(batch.image), torch.from_numpy(batch.caption), batch.step)
        images.append(draw.hard_image.numpy())
        texts.append(draw.hard_text.numpy())
        if objective != "offline_triplet":
            images.append(draw.hard_text_image.numpy())
            texts.append(draw.hard_image_text.numpy())
    tokens, lengths = pairs.tokens_at(np.concatenate(texts), device)
    encoded_images, encoded_texts = model(pairs.images_at(np.concatenate(images), device), tokens, lengths)
    size = len(batch.image)
    image, *hard_images = encoded_images.float().split(size)  # the parts, in the order they were put in
    text, *hard_texts = encoded_texts.float().split(size)
    return StepEmbeddings(
        image=image,
        text=text,
        group_ids=pairs.groups_at(batch.image, device),
        hard_image=hard_images[0] if hard_images else None,
        hard_text=hard_texts[0] if hard_texts else None,
        hard_text_image=hard_images[1] if len(hard_images) > 1 else None,
        hard_image_text=hard_texts[1] if len(hard_texts) > 1 else None,
    )
