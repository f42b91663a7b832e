"""The order of the pairs, the mined lists of a training set, and mining again while a model trains."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning_fabric")

from rich.console import Console

from aoq_ext.data import ImageTextData
from aoq_ext.lists import MinedFrom, StaleNegativesWarning, fingerprint_embeddings, mine_to_files
from aoq_ext.lists.manifest import Manifest
from aoq_ext.training import ConfigError, History, LossConfig, OfflineConfig, OfflineLists, load_run, mine_run, train
from aoq_ext.training.batches import CaptionsOfImages, PairBatches
from aoq_ext.training.config import TrainConfig, mined_at
from aoq_ext.training.mining import MiningOptions, mine_model
from aoq_ext.training.offline import fingerprint_data, fingerprint_weights
from aoq_ext.training.pairs import EncodedPairs
from aoq_ext.training.run import RunFiles
from tests.training.test_toy import CAPTIONS, CONCEPTS, STYLES, adaptive, load_toy, mined, toy_config, trained

IMAGES, TEXTS = CONCEPTS * STYLES, CONCEPTS * STYLES * CAPTIONS


def fake_lists(data: ImageTextData, k_text: int = 40, k_image: int = 20) -> OfflineLists:
    """Random lists that keep groups apart; the ends of some are missing."""
    random = np.random.default_rng(0)
    groups, text_groups = data.group_ids, data.group_ids[data.caption_image]

    def rows(anchors: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
        chosen = [random.permutation(np.flatnonzero(candidates != group))[:k] for group in anchors]
        result = np.stack(chosen).astype(np.int32)
        result[::3, k // 2 :] = -1
        return result

    texts, images = rows(groups, text_groups, k_text), rows(text_groups, groups, k_image)
    text_scores, image_scores = (np.where(side >= 0, 0.5, -np.inf).astype(np.float32) for side in (texts, images))
    problem = {"texts": "candidates", "data": fingerprint_data(data), "weights": "w"}
    manifest = Manifest(problem, MinedFrom("runs/round1", 7, "w", "e"))
    return OfflineLists(manifest, texts, text_scores, images, image_scores, data.caption_image)


@pytest.fixture
def data() -> ImageTextData:
    return load_toy()


@pytest.fixture
def captions(data: ImageTextData) -> CaptionsOfImages:
    return CaptionsOfImages(data.caption_image, len(data.images))


def test_an_epoch_shows_every_image_once_with_a_caption_of_its_own(
    data: ImageTextData, captions: CaptionsOfImages
) -> None:
    order = PairBatches(captions, batch_size=8, seed=0)
    epoch = list(order.epoch(2))
    assert [batch.step for batch in epoch] == [10, 11, 12, 13, 14]
    images = np.concatenate([batch.image for batch in epoch])
    assert sorted(images) == list(range(IMAGES))
    chosen = np.concatenate([batch.caption for batch in epoch])
    assert (data.caption_image[chosen] == images).all()
    assert len(set(chosen - data.caption_image[chosen] * CAPTIONS)) == CAPTIONS  # not always the first one


def test_the_order_is_a_function_of_seed_and_epoch(captions: CaptionsOfImages) -> None:
    def images(seed: int, epoch: int, first_step: int = 0) -> list[list[int]]:
        return [batch.image.tolist() for batch in PairBatches(captions, 8, seed).epoch(epoch, first_step)]

    assert images(0, 1) == images(0, 1)
    assert images(0, 1)[3:] == images(0, 1, first_step=3)
    assert images(0, 1) != images(0, 2)
    assert images(0, 1) != images(1, 1)


def test_left_over_images_sit_out_and_small_sets_make_one_batch(captions: CaptionsOfImages) -> None:
    assert [len(batch.image) for batch in PairBatches(captions, 12, 0).epoch(0)] == [12, 12, 12]
    assert [len(batch.image) for batch in PairBatches(captions, 500, 0).epoch(0)] == [IMAGES]


def test_an_image_without_captions_is_refused() -> None:
    with pytest.raises(ValueError, match="every image needs a caption, but image 1 has none"):
        CaptionsOfImages(np.array([0, 0, 2]), 3)


@pytest.mark.parametrize(("side", "anchor", "candidate"), [("texts", "image", "text"), ("images", "text", "image")])
def test_an_anchor_without_negatives_is_refused(
    tmp_path: Path, data: ImageTextData, side: str, anchor: str, candidate: str
) -> None:
    lists = fake_lists(data)
    getattr(lists, side)[7] = -1
    message = rf"offline.lists: .* one negative {candidate} for every {anchor}, got none for 1 .* is {anchor} 7\)"
    with pytest.raises(ConfigError, match=message):
        train(toy_config(tmp_path / "run", **adaptive(lists.save(tmp_path / "lists"))))


def test_fingerprints_do_not_depend_on_how_much_is_hashed_at_once(
    data: ImageTextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = fake_lists(data)
    turned = replace(lists, indices=np.asfortranarray(lists.texts))
    known = lists.fingerprint(), fingerprint_data(data)
    assert turned.fingerprint() == known[0]
    monkeypatch.setattr("aoq_ext._arrays.HASHED_BYTES", 300)
    assert (lists.fingerprint(), fingerprint_data(data)) == known
    assert turned.fingerprint() == known[0]


def test_what_holds_no_lists_of_a_run_is_refused(tmp_path: Path, data: ImageTextData) -> None:
    with pytest.raises(ConfigError, match=r"offline.lists: folder must hold mined lists .* without manifest.json"):
        OfflineLists.load(tmp_path / "nothing")
    mine_to_files(torch.ones(3, 2), torch.ones(4, 2), tmp_path / "files", 2, direction="both")
    with pytest.raises(
        ConfigError, match=r"offline.lists: expected lists mined with a run .*, got lists between files"
    ):
        OfflineLists.load(tmp_path / "files")
    fake_lists(data).save(tmp_path)
    (tmp_path / "indices.npy").unlink()
    with pytest.raises(
        ConfigError, match=r"offline.lists: folder must hold indices.npy, got .* without it; mine again"
    ):
        OfflineLists.load(tmp_path)


def test_lists_of_another_data_set_are_refused(data: ImageTextData) -> None:
    lists = fake_lists(data)
    with pytest.raises(ConfigError, match=r"expected lists for 20 images and 40 texts .* got lists for 40 and 80"):
        lists.check_matches(load_toy("val"))
    with pytest.raises(ConfigError, match=r"mined over a data set with fingerprint"):
        lists.check_matches(data.subset(np.roll(np.arange(IMAGES), 2)))


def test_mining_a_run_keeps_groups_apart_and_finds_the_hardest(tmp_path: Path, data: ImageTextData) -> None:
    run = trained(tmp_path, epochs=2)
    lists = OfflineLists.load(mined(run, tmp_path))
    text_groups = data.group_ids[data.caption_image]
    assert (text_groups[lists.texts] != data.group_ids[:, None]).all()
    assert (data.group_ids[lists.images] != text_groups[:, None]).all()
    loaded = load_run(run)
    scores = loaded.embed_images(data.images) @ loaded.embed_texts(data.captions).T
    own = torch.from_numpy(data.group_ids[:, None] == text_groups[None, :])
    hardest = scores.masked_fill(own, -torch.inf)
    found = scores.gather(1, torch.from_numpy(lists.texts.astype(np.int64)))
    torch.testing.assert_close(found, hardest.topk(30, dim=1).values)
    assert lists.weights_fingerprint == fingerprint_weights(loaded.model.state_dict())
    assert (lists.text_image == data.caption_image).all()
    embeddings = loaded.embed_images(data.images), loaded.embed_texts(data.captions)
    weights = lists.weights_fingerprint
    assert lists.mined_from == MinedFrom(str(run), loaded.epoch, weights, fingerprint_embeddings(*embeddings))
    assert mine_run(loaded, k_text=30, k_image=15).fingerprint() == lists.fingerprint()
    torch.testing.assert_close(torch.from_numpy(lists.text_scores), found)
    assert lists.image_scores.shape == lists.images.shape


def test_texts_with_the_tokens_of_an_own_caption_are_no_negatives(tmp_path: Path, data: ImageTextData) -> None:
    """Their embeddings are equal, whatever the captions look like: they would be the hardest of all."""
    loaded = load_run(trained(tmp_path, epochs=1))
    captions = [*data.captions]
    captions[-1] = 'the "thing0"'  # of the last concept
    pairs = EncodedPairs(replace(data, captions=captions), loaded.vocabulary)
    lists = mine_model(loaded.model, pairs, MiningOptions(TEXTS, IMAGES))
    own = captions.index("the thing0") // CAPTIONS
    assert TEXTS - 1 not in lists.texts[own]
    assert own not in lists.images[TEXTS - 1]
    allowed = mine_model(loaded.model, pairs, MiningOptions(TEXTS, IMAGES, repeated_captions=True))
    assert TEXTS - 1 in allowed.texts[own]


def test_training_refuses_lists_of_another_data_set(tmp_path: Path) -> None:
    folder = fake_lists(load_toy("val"), k_text=10, k_image=5).save(tmp_path / "lists")
    with pytest.raises(ConfigError, match=r"offline.lists: expected lists for 40 images"):
        train(toy_config(tmp_path / "run", **adaptive(folder)))


def remining(**offline: Any) -> dict[str, Any]:
    """The changes that make a toy run mine its own negatives."""
    options = {"top_texts": 20, "top_images": 10, "remine_every": 1, **offline}
    return {"loss": LossConfig(objective="adaptive_quintuplet"), "offline": OfflineConfig(**options)}


@pytest.mark.parametrize(
    ("lists", "warmup", "every", "expected"),
    [
        (None, 2, 2, [2, 2, 4, 4, 6]),
        ("lists", 2, 2, [None, None, 4, 4, 6]),
        (None, 0, 3, [0, 0, 0, 3, 3, 3, 6]),
        ("lists", 3, 9, [None, None, None, None]),
        ("lists", 5, None, [None, None]),
    ],
)
def test_when_lists_are_mined(lists: str | None, warmup: int, every: int | None, expected: list[int | None]) -> None:
    config = TrainConfig(warmup_epochs=warmup, offline=OfflineConfig(lists=lists, remine_every=every))
    assert [mined_at(config, epoch) for epoch in range(warmup, 7)] == expected


def test_lists_are_mined_with_the_weights_of_the_moment(tmp_path: Path) -> None:
    """A run that stops where another mines ends with the weights that mine there."""
    text = io.StringIO()
    config = toy_config(tmp_path / "run", **remining(remine_every=2), epochs=4)
    train(config, console=Console(file=text, width=200))
    files = RunFiles(config.run)
    assert [path.name for path in files.negatives.iterdir()] == ["epoch-003"]
    lists = OfflineLists.load(files.mined_lists(3))
    history = History.load(files.history)
    assert ["mining" in entry for entry in history.epochs] == [False, True, False, True]
    assert history.epochs[3]["mining"]["seconds"] > 0
    lines = [line for line in text.getvalue().splitlines() if "mined" in line]
    assert [line.split(" in ")[0] for line in lines] == [
        "mined with the weights of epoch 1",
        "mined with the weights of epoch 3",
    ]
    assert (lists.mined_from.run, lists.mined_from.epoch) == (config.run, 3)
    assert (lists.texts.shape, lists.images.shape) == ((IMAGES, 20), (TEXTS, 10))
    state = torch.load(files.miner, weights_only=True)
    assert lists.weights_fingerprint == fingerprint_weights(state["model"])
    last = load_run(config.run, "last")
    assert lists.weights_fingerprint != fingerprint_weights(last.model.state_dict())
    last.model.load_state_dict(state["model"])
    assert mine_run(last, 20, 10).fingerprint() == lists.fingerprint()


def test_lists_serve_until_the_first_mining(tmp_path: Path, data: ImageTextData) -> None:
    given = fake_lists(data).save(tmp_path / "lists")
    once = toy_config(tmp_path / "once", **remining(lists=str(given), remine_every=None), epochs=3)
    again = toy_config(tmp_path / "again", **remining(lists=str(given), remine_every=1), epochs=3)
    for config in (once, again):
        train(config)
    first, second = (History.load(RunFiles(config.run).history).epochs for config in (once, again))
    assert [entry["loss"] for entry in first[:2]] == [entry["loss"] for entry in second[:2]]
    assert first[2]["loss"] != second[2]["loss"]
    assert ["mining" in entry for entry in second] == [False, False, True]
    assert not RunFiles(once.run).negatives.exists()


def test_without_lists_a_run_must_mine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"offline.lists: expected the folder .* or set offline.remine_every"):
        train(toy_config(tmp_path / "run", **remining(remine_every=None)))


def stale_warnings(config: TrainConfig) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(config)
    return [str(warning.message) for warning in caught if warning.category is StaleNegativesWarning]


def test_stale_lists_are_warned_of_once(tmp_path: Path, data: ImageTextData) -> None:
    given = str(fake_lists(data).save(tmp_path / "lists"))
    options = {"lists": given, "remine_every": None}
    (warning,) = stale_warnings(toy_config(tmp_path / "given", **remining(**options, stale_after=1)))
    assert "weights of epoch 7 of runs/round1, not from those of" in warning
    assert "offline.remine_every" in warning
    assert stale_warnings(toy_config(tmp_path / "silent", **remining(**options))) == []
    (warning,) = stale_warnings(toy_config(tmp_path / "rare", **remining(remine_every=9, stale_after=1), epochs=5))
    assert "2 epochs ago, expected at most 1" in warning
    assert stale_warnings(toy_config(tmp_path / "often", **remining(remine_every=2, stale_after=1))) == []
