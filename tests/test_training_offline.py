"""Offline negatives: what is drawn, and which lists are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning_fabric")

from test_training_toy import CAPTIONS, CONCEPTS, STYLES, adaptive, load_toy, mined, toy_config, trained

from aoq_ext.data import ImageTextData
from aoq_ext.training import ConfigError, OfflineLists, load_run, train
from aoq_ext.training.batches import Batch, CaptionsOfImages, PairBatches
from aoq_ext.training.offline import OfflineSampler, fingerprint_data, fingerprint_weights

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

    return OfflineLists(
        rows(groups, text_groups, k_text), rows(text_groups, groups, k_image), fingerprint_data(data), "w"
    )


@pytest.fixture
def data() -> ImageTextData:
    return load_toy()


@pytest.fixture
def captions(data: ImageTextData) -> CaptionsOfImages:
    return CaptionsOfImages(data.caption_image, len(data.images))


def batches(captions: CaptionsOfImages, epochs: int = 40) -> list[Batch]:
    order = PairBatches(captions, batch_size=8, seed=3)
    return [batch for epoch in range(epochs) for batch in order.epoch(epoch)]


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


def test_draws_come_from_the_top_of_the_lists(data: ImageTextData, captions: CaptionsOfImages) -> None:
    lists = fake_lists(data)
    sampler = OfflineSampler(lists, captions, data.caption_image, top_texts=15, top_images=3, seed=0)
    text_places, image_places = set(), set()
    for batch in batches(captions):
        draw = sampler.draw(batch)
        rows = np.arange(len(batch.image))
        text_place = (lists.texts[batch.image] == draw.hard_text[:, None]).argmax(axis=1)
        image_place = (lists.images[batch.caption] == draw.hard_image[:, None]).argmax(axis=1)
        assert (lists.texts[batch.image][rows, text_place] == draw.hard_text).all()
        assert (lists.images[batch.caption][rows, image_place] == draw.hard_image).all()
        assert (image_place == text_place // 5).all()  # one draw for both sides, 15 places to 3
        assert (draw.hard_text_image == data.caption_image[draw.hard_text]).all()
        assert (data.caption_image[draw.hard_image_text] == draw.hard_image).all()
        assert (data.group_ids[draw.hard_image] != data.group_ids[batch.image]).all()
        text_places |= set(text_place.tolist())
        image_places |= set(image_place.tolist())
    assert text_places == set(range(15))
    assert image_places == set(range(3))


def test_missing_ends_are_never_drawn(data: ImageTextData, captions: CaptionsOfImages) -> None:
    lists = fake_lists(data)
    sampler = OfflineSampler(lists, captions, data.caption_image, top_texts=300, top_images=60, seed=0)
    seen: dict[int, set[int]] = {}
    for batch in batches(captions, epochs=300):
        draw = sampler.draw(batch)
        assert (draw.hard_text >= 0).all()
        assert (draw.hard_image >= 0).all()
        for image, text in zip(batch.image.tolist(), draw.hard_text.tolist(), strict=True):
            seen.setdefault(image, set()).add(text)
    assert seen[0] == set(lists.texts[0, :20].tolist())  # all that exist, and nothing else


def test_draws_are_a_function_of_seed_and_step(data: ImageTextData, captions: CaptionsOfImages) -> None:
    lists = fake_lists(data)
    first, again, other = (OfflineSampler(lists, captions, data.caption_image, seed=seed) for seed in (0, 0, 1))
    early, late = batches(captions)[0], batches(captions)[9]
    late_alone = first.draw(late)
    first.draw(early)
    assert (again.draw(late).hard_text == late_alone.hard_text).all()
    assert (again.draw(late).hard_image_text == late_alone.hard_image_text).all()
    assert (other.draw(late).hard_text != late_alone.hard_text).any()
    assert (first.draw(Batch(1, early.image, early.caption)).hard_text != first.draw(early).hard_text).any()


@pytest.mark.parametrize(("side", "anchor", "candidate"), [("texts", "image", "text"), ("images", "text", "image")])
def test_an_anchor_without_negatives_is_refused(
    data: ImageTextData, captions: CaptionsOfImages, side: str, anchor: str, candidate: str
) -> None:
    lists = fake_lists(data)
    getattr(lists, side)[7] = -1
    message = rf"expected at least one negative {candidate} for every {anchor}, got none for 1 .* is {anchor} 7\)"
    with pytest.raises(ConfigError, match=message):
        OfflineSampler(lists, captions, data.caption_image)


def test_lists_survive_the_disk(tmp_path: Path, data: ImageTextData) -> None:
    lists = fake_lists(data)
    loaded = OfflineLists.load(lists.save(tmp_path))
    assert (loaded.texts == lists.texts).all()
    assert (loaded.images == lists.images).all()
    loaded.check_matches(data)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["texts"]["shape"] == [IMAGES, 40]
    assert manifest["images"]["shape"] == [TEXTS, 20]


def test_altered_missing_and_foreign_lists_are_refused(tmp_path: Path, data: ImageTextData) -> None:
    with pytest.raises(ConfigError, match=r"expected a folder with a manifest.json"):
        OfflineLists.load(tmp_path / "nothing")
    fake_lists(data).save(tmp_path)
    path = tmp_path / "hard_texts.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match=r"hard_texts.npy is not the file its manifest describes"):
        OfflineLists.load(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"hard_texts.npy is missing"):
        OfflineLists.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match=r"manifest.json is not valid JSON"):
        OfflineLists.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 9}')
    with pytest.raises(ConfigError, match=r"expected format 1 .* got 9"):
        OfflineLists.load(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"expected an object in .*manifest.json, got a list; mine again"):
        OfflineLists.load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(ConfigError, match=r"as data_fingerprint in .*manifest.json, got None; mine again"):
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


def test_training_refuses_lists_of_another_data_set(tmp_path: Path) -> None:
    folder = fake_lists(load_toy("val"), k_text=10, k_image=5).save(tmp_path / "lists")
    with pytest.raises(ConfigError, match=r"offline.lists: expected lists for 40 images"):
        train(toy_config(tmp_path / "run", **adaptive(folder)))
