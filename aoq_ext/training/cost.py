"""What a run costs, in pairs that its encoders see."""

from __future__ import annotations

from aoq_ext.training.config import TrainConfig

# For each pair of a batch: itself, and the pairs that its offline negatives make.
PAIRS_ENCODED = {"online_triplet": 1, "offline_triplet": 2, "offline_quintuplet": 3, "adaptive_quintuplet": 3}


def pairs_encoded(config: TrainConfig, images: int, steps: int | None = None) -> int:
    """How often an image and a caption pass through the encoders in ``steps`` steps, or in the whole run.

    images: of the training set. Epochs of warming up have no offline terms. Mining and evaluation are not counted.
    """
    step_size = min(config.batch_size, images) * config.accumulate
    steps_per_epoch = images // step_size
    if steps is None:
        steps = config.epochs * steps_per_epoch
    warming_up = min(steps, config.warmup_epochs * steps_per_epoch)
    return step_size * (warming_up + (steps - warming_up) * PAIRS_ENCODED[config.loss.objective])
