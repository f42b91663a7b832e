"""Mining the training set with a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from aoq_ext.mining import mine_hard_negatives
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.model import embed_images, embed_texts
from aoq_ext.training.offline import OfflineLists, fingerprint_data, fingerprint_weights
from aoq_ext.training.pairs import EncodedPairs, load_split


def mine_run(run: str | Path | LoadedRun, k_text: int = 300, k_image: int = 60) -> OfflineLists:
    """The hardest negatives of the training set, both ways, as a run's best weights see it.

    Images of one group, and the captions of those images, are never each other's negatives.

    Args:
        run: a run's folder, or the run itself.
        k_text: texts listed for each image; lists longer than the data set allows are cut to it.
        k_image: images listed for each text.
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(run)
    data = load_split(loaded.config.data, loaded.config.data.train_split)
    pairs = EncodedPairs(data, loaded.vocabulary)
    images = embed_images(loaded.model, data.images)  # (N, D)
    texts = embed_texts(loaded.model, pairs.tokens, pairs.lengths)  # (M, D)
    image_groups = torch.from_numpy(data.group_ids).to(images.device)  # (N,)
    text_groups = image_groups[torch.from_numpy(data.caption_image).to(images.device)]  # (M,)
    hard_texts = mine_hard_negatives(images, texts, min(k_text, len(texts)), image_groups, text_groups)
    hard_images = mine_hard_negatives(texts, images, min(k_image, len(images)), text_groups, image_groups)
    return OfflineLists(
        texts=hard_texts.indices.cpu().numpy().astype(np.int32),
        images=hard_images.indices.cpu().numpy().astype(np.int32),
        data_fingerprint=fingerprint_data(data),
        weights_fingerprint=fingerprint_weights(loaded.model.state_dict()),
    )
