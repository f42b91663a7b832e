"""What runs cost in pairs encoded."""

from __future__ import annotations

import pytest

from aoq_ext.training import LossConfig, TrainConfig
from aoq_ext.training.cost import pairs_encoded


@pytest.mark.parametrize(
    ("objective", "pairs"),
    [("online_triplet", 1), ("offline_triplet", 2), ("offline_quintuplet", 3), ("adaptive_quintuplet", 3)],
)
def test_offline_negatives_are_encoded_beside_the_pairs(objective, pairs: int) -> None:
    config = TrainConfig(epochs=5, warmup_epochs=2, batch_size=8, loss=LossConfig(objective=objective))
    assert pairs_encoded(config, 20) == 16 * (2 + 3 * pairs)  # four images of an epoch are left over
    assert pairs_encoded(config, 20, steps=3) == 24
    assert pairs_encoded(config, 20, steps=5) == 8 * (4 + pairs)


def test_a_step_may_have_several_batches_or_all_images() -> None:
    assert pairs_encoded(TrainConfig(epochs=1, warmup_epochs=0, batch_size=8, accumulate=2), 40) == 32
    assert pairs_encoded(TrainConfig(epochs=1, warmup_epochs=0, batch_size=128), 40) == 40
