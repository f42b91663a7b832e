"""Training in batches of seeds and of the owners of their mined negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightning_fabric")

from aoq_ext.data import ImageTextData
from aoq_ext.lists import HardNegativeBatchSampler, OfflineNegativeSampler
from aoq_ext.training import History, LossConfig, OfflineConfig, TrainConfig, train
from aoq_ext.training.batches import CaptionsOfImages, PairBatches
from aoq_ext.training.config import check, needs_offline
from aoq_ext.training.run import RunFiles
from tests.training.test_feed import config_of
from tests.training.test_offline import fake_lists
from tests.training.test_resume import Stop, final, same, stop_at
from tests.training.test_toy import load_toy, toy_config

SHARE = 0.5


@pytest.fixture(scope="module")
def data() -> ImageTextData:
    return load_toy()


@pytest.fixture(scope="module")
def lists(data: ImageTextData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_lists(data).save(tmp_path_factory.mktemp("mined") / "lists")


@pytest.fixture
def negatives(lists: Path) -> OfflineNegativeSampler:
    return OfflineNegativeSampler.from_folder(lists)


def hard(lists: Path | None, objective: Any = "online_triplet", **offline: Any) -> dict[str, Any]:
    """The changes that make a toy run train in such batches."""
    options = {"top_texts": 20, "top_images": 10, "batch_share": SHARE, **offline}
    return {
        "loss": LossConfig(objective=objective),
        "offline": OfflineConfig(lists=None if lists is None else str(lists), **options),
    }


def batches_of(data: ImageTextData, batch_size: int = 8, accumulate: int = 1) -> PairBatches:
    return PairBatches(CaptionsOfImages(data.caption_image, len(data.images)), batch_size, 3, accumulate)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_are_those_of_the_public_sampler(
    data: ImageTextData, negatives: OfflineNegativeSampler, accumulate: int
) -> None:
    order = batches_of(data, accumulate=accumulate)
    hard = order.hard(negatives, SHARE)
    assert isinstance(hard, HardNegativeBatchSampler)
    assert (hard.batch_size, hard.owners) == (8, 4)
    epoch, usual = list(order.epoch(2, hard=hard)), list(order.epoch(2))
    assert [batch.step for batch in epoch] == [batch.step for batch in usual]
    for batch in epoch:
        assert len(batch) == 8 * accumulate
        assert (data.caption_image[batch.caption] == batch.image).all()
        for part, pairs in enumerate(batch.parts(accumulate)):
            assert pairs.caption.tolist() == hard.batch(batch.step * accumulate + part)
            assert len(set(pairs.image.tolist())) == 8
    rest = list(order.epoch(2, first_step=1, hard=order.hard(negatives, SHARE)))
    assert [batch.caption.tolist() for batch in rest] == [batch.caption.tolist() for batch in epoch[1:]]


def test_over_the_epochs_every_pair_is_a_seed_equally_often(
    data: ImageTextData, negatives: OfflineNegativeSampler
) -> None:
    """Batches of 4 seeds and 4 owners: two epochs go through the images, four through their two captions."""
    order = batches_of(data)
    hard = order.hard(negatives, SHARE)
    seeds = np.concatenate([batch.caption[:4] for epoch in range(8) for batch in order.epoch(epoch, hard=hard)])
    assert (np.bincount(seeds, minlength=len(data.captions)) == 2).all()


def test_a_set_smaller_than_a_batch_makes_one(data: ImageTextData, negatives: OfflineNegativeSampler) -> None:
    order = batches_of(data, batch_size=500)
    (batch,) = order.epoch(0, hard=order.hard(negatives, SHARE))
    assert sorted(batch.image) == list(range(len(data.images)))


def steps_of(config: TrainConfig) -> list[dict[str, Any]]:
    train(config)
    return History.load(RunFiles(config.run).history).steps


@pytest.mark.parametrize("objective", ["online_triplet", "adaptive_quintuplet"])
def test_they_begin_when_the_warm_up_is_over(tmp_path: Path, lists: Path, objective: Any) -> None:
    steps = steps_of(toy_config(tmp_path / "hard", **hard(lists, objective), log_every=1))
    usual = steps_of(toy_config(tmp_path / "usual", **hard(lists, objective, batch_share=0.0), log_every=1))
    assert len(steps) == len(usual) == 15
    assert same(steps[:5], usual[:5])
    assert all(one["loss"] != other["loss"] for one, other in zip(steps[5:], usual[5:], strict=True))


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        ("online_triplet", {}),
        ("adaptive_quintuplet", {"remine_every": 1}),
        ("online_triplet", {"remine_every": 1, "lists": None}),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_equals_uninterrupted(
    tmp_path: Path, lists: Path, objective: Any, changes: dict[str, Any], accumulate: int
) -> None:
    options = hard(changes.get("lists", lists), objective, remine_every=changes.get("remine_every"))
    whole, parts = (
        toy_config(tmp_path / name, **options, accumulate=accumulate, batch_size=8 // accumulate)
        for name in ("whole", "parts")
    )
    train(whole)
    for stop in (4, 7, 13):
        with pytest.raises(Stop):
            train(parts, resume=True, on_step=stop_at(stop))
    train(parts, resume=True)
    assert same(final(parts), final(whole))


def test_images_read_ahead_are_the_same(tmp_path: Path, lists: Path) -> None:
    runs = []
    for workers in (0, 2):
        config = config_of(tmp_path / str(workers), "mapped", workers)
        config.offline = hard(lists)["offline"]
        runs.append(steps_of(config))
    assert same(*runs)


def test_lists_are_needed_only_after_the_warm_up(tmp_path: Path, lists: Path) -> None:
    assert needs_offline(toy_config(tmp_path, **hard(lists)))
    assert not needs_offline(toy_config(tmp_path, **hard(lists, batch_share=0.0)))
    check(toy_config(tmp_path, **hard(None), warmup_epochs=3))
