"""Offline negatives: what is drawn, how it is resumed and shared, and which lists are refused."""

from __future__ import annotations

import doctest
import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

import aoq_ext.lists.sampler as module
from aoq_ext.lists import MinedLists
from aoq_ext.lists.manifest import Manifest
from aoq_ext.mining import (
    MinedFrom,
    OfflineNegatives,
    OfflineNegativeSampler,
    StaleNegativesWarning,
    fingerprint_embeddings,
    mine_hard_negatives,
    mine_to_files,
)

IMAGES, CAPTIONS = 30, 3
TEXTS = IMAGES * CAPTIONS
OWN = torch.arange(TEXTS) // CAPTIONS  # the image of each text
FIELDS = ("hard_text", "hard_image", "hard_text_image", "hard_image_text")


def lists(k_text: int = 20, k_image: int = 4, dtype: torch.dtype = torch.int64) -> tuple[Tensor, Tensor]:
    """Random lists of negatives, all full."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.stack([shuffled(torch.arange(TEXTS)[i != OWN], generator)[:k_text] for i in range(IMAGES)])
    images = torch.stack([shuffled(torch.arange(IMAGES)[OWN[j] != torch.arange(IMAGES)], generator)[:k_image]
                          for j in range(TEXTS)])  # fmt: skip
    return texts.to(dtype), images.to(dtype)


def shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    return values[torch.randperm(len(values), generator=generator)]


def sampler(**options: Any) -> OfflineNegativeSampler:
    return OfflineNegativeSampler(*lists(), OWN, **options)


def pairs() -> tuple[Tensor, Tensor]:
    """Every text once, with its image."""
    return OWN, torch.arange(TEXTS)


def equal(first: OfflineNegatives, second: OfflineNegatives) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def differ(first: OfflineNegatives, second: OfflineNegatives) -> bool:
    return all(not torch.equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def test_the_example_is_right() -> None:
    assert doctest.testmod(module) == (0, 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_draws_are_of_the_lists_and_go_together(dtype: torch.dtype) -> None:
    hard_text, hard_image = lists(dtype=dtype)
    negatives = OfflineNegativeSampler(hard_text, hard_image, OWN, top_texts=15, top_images=3)
    text_places, image_places = set(), set()
    for step in range(40):
        draw = negatives.draw(*pairs(), step)
        assert all(getattr(draw, name).dtype == torch.int64 for name in FIELDS)
        at_text, at_image = (hard_text[OWN] == draw.hard_text[:, None]), hard_image == draw.hard_image[:, None]
        assert at_text.any(dim=1).all() and at_image.any(dim=1).all()
        text_place, image_place = at_text.int().argmax(dim=1), at_image.int().argmax(dim=1)
        assert torch.equal(image_place, text_place // 5)  # one draw for both sides, 15 places to 3
        assert torch.equal(draw.hard_text_image, OWN[draw.hard_text])
        assert torch.equal(OWN[draw.hard_image_text], draw.hard_image)
        text_places |= set(text_place.tolist())
        image_places |= set(image_place.tolist())
    assert (text_places, image_places) == (set(range(15)), set(range(3)))


def paper_sized() -> OfflineNegativeSampler:
    """600 texts of 61 images; the entry of a hard text is its place, of a hard image its place plus one."""
    places, one_more = torch.arange(300).expand(61, 300), torch.arange(1, 61).expand(600, 60)
    return OfflineNegativeSampler(places, one_more, torch.arange(600) % 61)


def test_the_papers_pairing_of_places() -> None:
    """Of 300 texts and 60 images, text n goes with image n // 5."""
    texts = torch.arange(600)
    draw = paper_sized().draw(texts % 61, texts, 3)
    assert torch.equal(draw.hard_image - 1, draw.hard_text // 5)


def test_every_place_and_every_partner_is_equally_likely() -> None:
    """Chi-squared of places and of partners, over all pairs of 400 steps; the bounds are the 99.9th percentiles."""
    hard_text, _ = lists()
    negatives = sampler(top_texts=15, top_images=3)
    draws = [negatives.draw(*pairs(), step) for step in range(400)]
    places = torch.cat([(hard_text[OWN] == draw.hard_text[:, None]).int().argmax(dim=1) for draw in draws])
    partners = torch.cat([draw.hard_image_text % CAPTIONS for draw in draws])
    for values, kinds, bound in ((places, 15, 36.12), (partners, 3, 13.82)):
        counts = torch.bincount(values, minlength=kinds).double()
        expected = len(values) / kinds
        assert ((counts - expected) ** 2 / expected).sum() < bound
    joint = torch.bincount(places * 3 + partners, minlength=45).double()  # the partner does not follow from the place
    expected = len(places) / 45
    assert ((joint - expected) ** 2 / expected).sum() < 78.75
    steps = places.view(400, TEXTS)  # nor does a step's place from the step before, nor a pair's from its neighbour's
    for first, second in ((steps[1:], steps[:-1]), (steps[:, 1:], steps[:, :-1])):
        correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1]
        assert abs(correlation) < 4 / 36_000**0.5


def test_draws_are_a_function_of_seed_step_and_pair() -> None:
    first, again, other = sampler(), sampler(), sampler(seed=1)
    late = first.draw(*pairs(), 9)
    first.draw(*pairs(), 0)
    assert equal(first.draw(*pairs(), 9), late)
    assert equal(again.draw(*pairs(), 9), late)
    assert differ(other.draw(*pairs(), 9), late)
    assert differ(first.draw(*pairs(), 10), late)
    image, text = pairs()
    order = torch.randperm(TEXTS, generator=torch.Generator().manual_seed(1))
    mixed = first.draw(image[order], text[order], 9)
    assert all(torch.equal(getattr(mixed, name), getattr(late, name)[order]) for name in FIELDS)


def test_what_seed_zero_draws_never_changes() -> None:
    """Runs that are resumed with a later version go on as they began."""
    draw = paper_sized().draw(torch.arange(6), torch.arange(6), 12_345)
    assert draw.hard_text.tolist() == [171, 221, 86, 72, 267, 134]
    assert draw.hard_image_text.tolist() == [462, 472, 567, 15, 54, 149]


def test_ranks_draw_together_what_one_process_would() -> None:
    image, text = pairs()
    whole = sampler().draw(image, text, 4)
    shares = [sampler().draw(image[rank::4], text[rank::4], 4) for rank in range(4)]
    for rank, share in enumerate(shares):
        assert all(torch.equal(getattr(share, name), getattr(whole, name)[rank::4]) for name in FIELDS)


def test_resuming_in_the_middle_of_an_epoch() -> None:
    whole, before = sampler(), sampler()
    expected = [whole.draw(*pairs()) for _ in range(10)]
    for step in range(6):
        assert equal(before.draw(*pairs()), expected[step])
    content = io.BytesIO()
    torch.save(before.state_dict(), content)
    content.seek(0)
    after = sampler()
    after.load_state_dict(torch.load(content, weights_only=True))
    for step in range(6, 10):
        assert equal(after.draw(*pairs()), expected[step])
        assert equal(sampler().draw(*pairs(), step), expected[step])  # or without any state


def test_the_state_of_another_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state: expected the seed of this sampler, 1, got 0"):
        sampler(seed=1).load_state_dict(sampler().state_dict())
    with pytest.raises(ValueError, match=r"state: expected the fingerprint of this sampler, 'b', got 'a'"):
        sampler(fingerprint="b").load_state_dict(sampler(fingerprint="a").state_dict())
    with pytest.raises(ValueError, match=r"state: step must be from 0"):
        sampler().load_state_dict({**sampler().state_dict(), "step": -1})


class Pairs(Dataset[tuple[Tensor, ...]]):
    """Items are asked for as (step, text); with no step the sampler would have to count."""

    def __init__(self, negatives: OfflineNegativeSampler) -> None:
        self.negatives = negatives

    def __getitem__(self, item: tuple[int | None, int]) -> tuple[Tensor, ...]:
        step, text = item
        draw = self.negatives.draw(OWN[text : text + 1], torch.tensor([text]), step)
        return tuple(getattr(draw, name)[0] for name in FIELDS)


class Batches(Sampler[Any]):
    def __init__(self, steps: bool = True) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[Any]:
        for step, first in enumerate(range(0, TEXTS, 10)):
            yield [(step if self.steps else None, text) for text in range(first, first + 10)]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_draw_what_one_process_would(tmp_path: Path, start: str) -> None:
    negatives = OfflineNegativeSampler.from_folder(write(tmp_path)) if start == "spawn" else sampler()
    loader = DataLoader(Pairs(negatives), batch_sampler=Batches(), num_workers=2, multiprocessing_context=start)
    drawn = list(loader)
    assert len(drawn) == 9
    for step, batch in enumerate(drawn):
        text = torch.arange(step * 10, step * 10 + 10)
        assert equal(OfflineNegatives(*batch), sampler().draw(OWN[text], text, step))


def test_workers_must_be_given_the_step() -> None:
    loader = DataLoader(Pairs(sampler()), batch_sampler=Batches(steps=False), num_workers=2)
    with pytest.raises(ValueError, match=r"step must be given in a DataLoader worker"):
        next(iter(loader))


def test_lists_with_missing_ends_are_used_whole() -> None:
    hard_text, hard_image = lists()
    hard_text[::2, 7:] = -1
    hard_text[4, 1:] = -1
    hard_image[1::2, 2:] = -1
    negatives = OfflineNegativeSampler(hard_text, hard_image, OWN)
    draws = [negatives.draw(*pairs(), step) for step in range(300)]
    texts = torch.stack([draw.hard_text for draw in draws])  # (steps, pairs)
    for image in range(IMAGES):
        seen = set(texts[:, image == OWN].unique().tolist())
        assert seen == set(hard_text[image][hard_text[image] >= 0].tolist())
    seen = {int(draw.hard_image[5]) for draw in draws}
    assert seen == set(hard_image[5, :2].tolist())


def test_images_may_have_any_number_of_texts_in_any_order() -> None:
    own = torch.tensor([1, 0, 2, 1, 1])
    hard_text = torch.tensor([[0], [1], [1]])
    hard_image = torch.tensor([[0], [1], [1], [2], [0]])
    negatives = OfflineNegativeSampler(hard_text, hard_image, own)
    draws = [negatives.draw(own, torch.arange(5), step) for step in range(60)]
    assert {int(draw.hard_image_text[1]) for draw in draws} == {0, 3, 4}  # of image 1
    assert {int(draw.hard_image_text[3]) for draw in draws} == {2}
    assert {int(draw.hard_image_text[0]) for draw in draws} == {1}


def test_empty_batches_draw_nothing() -> None:
    draw = sampler().draw(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 0)
    assert all(getattr(draw, name).shape == (0,) for name in FIELDS)


@pytest.mark.parametrize(("side", "anchor", "candidate"), [(0, "image", "text"), (1, "text", "image")])
def test_an_anchor_without_negatives_is_refused(side: int, anchor: str, candidate: str) -> None:
    both = lists()
    both[side][7] = -1
    message = (
        rf"expected at least one negative {candidate} for every {anchor}, got none for 1 .* is {anchor} 7\): "
        r"its group, its captions or the rules it was mined with left none; mine with milder rules"
    )
    with pytest.raises(ValueError, match=message):
        OfflineNegativeSampler(*both, OWN)


def with_value(side: int, row: int, place: int, value: int) -> tuple[Tensor, Tensor]:
    both = lists()
    both[side][row, place] = value
    return both


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hard_text": [[1]]}, TypeError, "hard_text must be a torch.Tensor, got list"),
        ({"hard_text": lists()[0].float()}, TypeError, "hard_text must be an integer tensor, got float32"),
        ({"hard_image": OWN}, ValueError, r"hard_image must have 2 dimensions, got shape \(90,\)"),
        ({"text_image_index": OWN[1:]}, ValueError, "one entry per row of hard_image, 90, got 89"),
        ({"text_image_index": OWN + 1}, ValueError, "rows of hard_text, from 0 to 29, got 1 to 30"),
        ({"text_image_index": OWN * 0}, ValueError, "must give every image a text, got none for image 1"),
        ({"hard_text": with_value(0, 5, 2, 90)[0]}, ValueError, r"hard_text must hold texts from 0 to 89, .* got 90 at "
                                                                r"place 2 of the list of image 5"),
        ({"hard_text": with_value(0, 5, 2, -2)[0]}, ValueError, "got -2 at place 2 of the list of image 5"),
        ({"hard_text": with_value(0, 5, 2, -1)[0]}, ValueError, r"then -1 to the end of a list, got \d+ at place 3"),
        ({"hard_image": with_value(1, 8, 0, 30)[1]}, ValueError, "images from 0 to 29, .* list of text 8"),
        ({"top_texts": 0}, ValueError, "top_texts must be from 1"),
        ({"top_images": 1.5}, TypeError, "top_images must be an int, got float"),
        ({"seed": -1}, ValueError, "seed must be from 0"),
        ({"seed": True}, TypeError, "seed must be an int, got bool"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], error: type, message: str) -> None:
    hard_text, hard_image = lists()
    arguments = {"hard_text": hard_text, "hard_image": hard_image, "text_image_index": OWN, **changes}
    with pytest.raises(error, match=message):
        OfflineNegativeSampler(**arguments)


@pytest.mark.parametrize(
    ("image", "text", "step", "error", "message"),
    [
        (torch.tensor([30]), torch.tensor([0]), 0, ValueError, "image_index must be from 0 to 29, got 30 to 30"),
        (torch.tensor([0]), torch.tensor([-1]), 0, ValueError, "text_index must be from 0 to 89, got -1 to -1"),
        (
            torch.tensor([0]),
            torch.tensor([0, 1]),
            0,
            ValueError,
            r"text_index must have the shape .*\(1,\), got \(2,\)",
        ),
        (torch.tensor([0.0]), torch.tensor([0]), 0, TypeError, "image_index must be an integer tensor"),
        ([0], torch.tensor([0]), 0, TypeError, "image_index must be a torch.Tensor, got list"),
        (
            torch.tensor([0, 3]),
            torch.tensor([0, 4]),
            0,
            ValueError,
            "text_index must be texts of the images in image_index, got text 4, of image 1, with image 3 at place 1",
        ),
        (torch.tensor([0]), torch.tensor([0]), -1, ValueError, "step must be from 0"),
        (torch.tensor([0]), torch.tensor([0]), 0.5, TypeError, "step must be an int, got float"),
    ],
)
def test_draws_that_cannot_work_are_refused(image: Any, text: Any, step: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        sampler().draw(image, text, step)


def test_lists_of_something_else_are_refused() -> None:
    images, texts = torch.randn(4, 3), torch.randn(6, 3)
    known = fingerprint_embeddings(images, texts)
    negatives = sampler(fingerprint=known)
    negatives.check(known)
    other = fingerprint_embeddings(images, texts + 1)
    with pytest.raises(ValueError, match=rf"expected_fingerprint: .* '{other}', got lists of '{known}'; mine again"):
        negatives.check(other)
    with pytest.raises(ValueError, match="got lists of something without a fingerprint"):
        sampler().check(known)
    both = sampler(fingerprint="data", mined_from=MinedFrom(embeddings=known))
    both.check("data")
    both.check(known)


def test_fingerprints_are_of_the_bits() -> None:
    images, texts = torch.randn(50, 6), torch.randn(80, 6)
    known = fingerprint_embeddings(images, texts)
    assert fingerprint_embeddings(images.t().contiguous().t(), texts) == known
    changed = texts.clone()
    changed[-1, -1] += 1e-6
    others = ((texts, images), (images, changed), (images, texts[1:]), (images.view(25, 12), texts.view(40, 12)))
    assert len({known, *(fingerprint_embeddings(*both) for both in others)}) == 5
    halves = images.bfloat16(), texts.bfloat16()
    assert fingerprint_embeddings(*halves) != fingerprint_embeddings(*(half.view(torch.float16) for half in halves))


@pytest.mark.parametrize(
    ("origin", "arguments", "message"),
    [
        (MinedFrom("runs/a", 4), {"epoch": 10, "max_age": 5}, r"weights of epoch 4 of runs/a, 6 epochs ago, .* most 5"),
        (MinedFrom("runs/a", 4), {"epoch": 5, "max_age": 5, "run": "runs/b"}, "runs/a, not from those of runs/b"),
        (
            MinedFrom(),
            {"epoch": 5, "max_age": 5, "run": "runs/b"},
            "weights of unknown age of an unknown run, not from",
        ),
        (None, {"epoch": 5, "max_age": 5}, "weights of unknown age of an unknown run, expected weights at most 5 epo"),
    ],
)
def test_stale_lists_are_warned_of_once(origin: MinedFrom | None, arguments: dict[str, Any], message: str) -> None:
    negatives = sampler(mined_from=origin)
    with pytest.warns(StaleNegativesWarning, match=rf"{message}.*offline.remine_every"):
        assert negatives.warn_if_stale(**arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert negatives.warn_if_stale(**arguments)


def test_recent_lists_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not sampler(mined_from=MinedFrom("runs/a", 4)).warn_if_stale(9, 5, "runs/a")
        assert not sampler(mined_from=MinedFrom("runs/a", 4)).warn_if_stale(9, 5)


def write(folder: Path, text_image: bool = True) -> Path:
    """A folder of lists as of a run."""
    manifest = Manifest({"texts": "candidates", "data": "d", "weights": "w"}, MinedFrom("runs/a", 3, "w", "e"))
    texts, images = (side.numpy() for side in lists(dtype=torch.int32))
    scores = (np.zeros(side.shape, np.float32) for side in (texts, images))
    return MinedLists(manifest, texts, next(scores), images, next(scores), OWN.numpy() if text_image else None).save(
        folder
    )


def test_a_folder_is_mapped_and_draws_the_same(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        negatives = OfflineNegativeSampler.from_folder(write(tmp_path), expected_fingerprint="d")
    assert equal(negatives.draw(*pairs(), 3), sampler().draw(*pairs(), 3))
    assert negatives.mined_from == MinedFrom("runs/a", 3, "w", "e")
    assert repr(negatives) == (
        "OfflineNegativeSampler(20 texts for 30 images, 4 images for 90 texts, seed=0, "
        "mined from weights of epoch 3 of runs/a)"
    )
    mapped = any(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())
    assert mapped
    assert not {"hard_text", "hard_image"} & negatives.__getstate__().keys()  # a copy for every worker
    assert equal(pickle.loads(pickle.dumps(negatives)).draw(*pairs(), 3), negatives.draw(*pairs(), 3))


def test_a_folder_may_need_the_image_of_each_text(tmp_path: Path) -> None:
    write(tmp_path, text_image=False)
    with pytest.raises(ValueError, match=r"text_image_index must be given, since .* does not hold it, got None"):
        OfflineNegativeSampler.from_folder(tmp_path)
    assert equal(OfflineNegativeSampler.from_folder(tmp_path, OWN).draw(*pairs(), 3), sampler().draw(*pairs(), 3))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    OfflineNegativeSampler.from_folder(tmp_path, expected_fingerprint="e")
    with pytest.raises(ValueError, match=r"fingerprint 'x', got lists of 'd' and 'e'"):
        OfflineNegativeSampler.from_folder(tmp_path, expected_fingerprint="x")


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path) / "indices.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"must hold the indices.npy of its manifest, got other content; mine again"):
        OfflineNegativeSampler.from_folder(tmp_path)
    OfflineNegativeSampler.from_folder(tmp_path, verify=False, top_texts=1)


@pytest.mark.parametrize("texts_are", ["candidates", "anchors"])
def test_lists_mined_between_files_are_drawn_from(tmp_path: Path, texts_are: Any) -> None:
    images, texts = torch.randn(IMAGES, 8), torch.randn(TEXTS, 8)
    own = {"candidates": (torch.arange(IMAGES), OWN), "anchors": (OWN, torch.arange(IMAGES))}[texts_are]
    sides = (images, texts) if texts_are == "candidates" else (texts, images)
    mine_to_files(*sides, tmp_path, 9, *own, direction="both", k_reverse=7, texts=texts_are)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        negatives = OfflineNegativeSampler.from_folder(
            tmp_path, OWN, expected_fingerprint=fingerprint_embeddings(images, texts)
        )
    forth = mine_hard_negatives(images, texts, negatives.hard_text.shape[1], torch.arange(IMAGES), OWN)
    back = mine_hard_negatives(texts, images, negatives.hard_image.shape[1], OWN, torch.arange(IMAGES))
    expected = OfflineNegativeSampler(forth.indices, back.indices, OWN)
    assert equal(negatives.draw(*pairs(), 3), expected.draw(*pairs(), 3))
    assert equal(pickle.loads(pickle.dumps(negatives)).draw(*pairs(), 3), expected.draw(*pairs(), 3))
    assert equal(
        OfflineNegativeSampler.from_folder(tmp_path, OWN.numpy()).draw(*pairs(), 3), expected.draw(*pairs(), 3)
    )
    with pytest.raises(ValueError, match=r"text_image_index must be given, since"):
        OfflineNegativeSampler.from_folder(tmp_path)


def test_lists_of_one_direction_are_refused(tmp_path: Path) -> None:
    mine_to_files(torch.randn(IMAGES, 8), torch.randn(TEXTS, 8), tmp_path, 9)
    with pytest.raises(
        ValueError, match=r"folder must hold lists in both directions \(`aoq mine --both`\), got .* one"
    ):
        OfflineNegativeSampler.from_folder(tmp_path, OWN)
