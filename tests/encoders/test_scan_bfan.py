"""SCAN and BFAN as models, and how models match."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aoq_ext import AdaptiveQuintupletLoss, AdaptiveQuintupletScoreLoss
from aoq_ext.encoders import (
    BFAN,
    SCAN,
    BiGRUWordEncoder,
    CrossAttentionModel,
    EmbeddingModel,
    Features,
    FeatureStore,
    GlobalImageEncoder,
    GRUTextEncoder,
    MatchingModel,
    PackedFeatures,
    RegionEncoder,
    quintuplet_scores,
    score_blocks,
    score_matrix,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def tokens(count: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 7, (count,), generator=generator)
    words = torch.randint(1, 10, (count, int(lengths.max())), generator=generator)
    return words.where(torch.arange(words.shape[1]) < lengths.unsqueeze(1), 0), lengths


def models() -> list[MatchingModel]:
    torch.manual_seed(0)
    small = {"vocabulary_size": 10, "image_dim": 8, "dim": 6, "word_dim": 4}
    return [
        SCAN(**small),
        SCAN(**small, direction="i2t", pooling="mean"),
        BFAN(**small, focal="equal"),
        BFAN(**small, focal="prob"),
        EmbeddingModel(GlobalImageEncoder(8, 6), GRUTextEncoder(10, 6, 4)),
    ]


def test_regions_are_projected_to_length_one() -> None:
    images = torch.randn(2, 5, 8)
    encoder = RegionEncoder(8, dim=6)
    torch.testing.assert_close(encoder(images), F.normalize(encoder.project(images), dim=2))
    assert not encoder.project.bias.any()


def test_padded_regions_leave_no_trace_in_the_weights() -> None:
    encoder, lengths = RegionEncoder(8, dim=6), torch.tensor([5, 2])
    images = torch.randn(2, 5, 8)
    images[1, 2:] = float("nan")
    encoder(images, lengths)[0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_a_word_is_the_mean_of_both_directions() -> None:
    encoder = BiGRUWordEncoder(10, dim=6, word_dim=4)
    padded, lengths = tokens()
    result = encoder(padded, lengths)
    for row, length in enumerate(lengths.tolist()):
        states, _ = encoder.gru(encoder.words(padded[row, :length]))
        torch.testing.assert_close(result[row, :length], F.normalize((states[:, :6] + states[:, 6:]) / 2, dim=1))
        assert not result[row, length:].any()


def test_a_word_may_know_only_those_before_it() -> None:
    encoder = BiGRUWordEncoder(10, dim=6, word_dim=4, bidirectional=False)
    padded, lengths = tokens()
    states, _ = encoder.gru(encoder.words(padded[:1, : lengths[0]]))
    torch.testing.assert_close(encoder(padded, lengths)[0, : lengths[0]], F.normalize(states[0], dim=1))


def test_the_authors_options() -> None:
    scan, other = SCAN(10, direction="t2i").attention.rule, SCAN(10, direction="i2t").attention.rule
    assert (scan.lambda_softmax, scan.lambda_lse) == (9, 6)
    assert (other.lambda_softmax, other.lambda_lse) == (4, 5)
    bfan = BFAN(10).attention.rule
    assert (bfan.direction, bfan.lambda_softmax, bfan.pooling, bfan.focal) == ("both", 20, "mean", "prob")


@pytest.mark.parametrize("model", models(), ids=lambda model: type(model).__name__)
def test_pairs_are_the_diagonal_of_the_scores(model: MatchingModel) -> None:
    images, texts = model.encode_images(torch.randn(4, 5, 8)), model.encode_texts(*tokens())
    scores = model.scores(images, texts)
    assert scores.shape == (4, 4)
    torch.testing.assert_close(model.pair_scores(images, texts), scores.diagonal())


@pytest.mark.parametrize("model", models(), ids=lambda model: type(model).__name__)
def test_images_with_fewer_regions(model: MatchingModel) -> None:
    lengths = torch.tensor([5, 1, 3, 2])
    images = torch.randn(4, 5, 8)
    texts = model.encode_texts(*tokens())
    together = model.scores(model.encode_images(images, lengths), texts)
    alone = [
        model.scores(model.encode_images(images[row : row + 1, :length]), texts)
        for row, length in enumerate(lengths.tolist())
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def encoded(model: MatchingModel) -> dict[str, Features]:
    """What a step encodes: pairs and their offline negatives, each side at once."""
    images = model.encode_images(torch.randn(12, 5, 8, generator=torch.Generator().manual_seed(1)))
    texts = model.encode_texts(*tokens(12))
    names = ("image", "hard_image", "hard_text_image"), ("text", "hard_text", "hard_image_text")
    parts = zip(names[0] + names[1], images.split(4) + texts.split(4))
    return dict(parts)


@pytest.mark.parametrize("model", models(), ids=lambda model: type(model).__name__)
def test_a_step_of_the_quintuplet_loss(model: MatchingModel) -> None:
    features = encoded(model)
    scores = quintuplet_scores(model, **features)
    for name, image, text in (
        ("scores", "image", "text"), ("hard_text_scores", "image", "hard_text"),
        ("hard_image_scores", "hard_image", "text"), ("hard_pair_scores", "hard_image", "hard_text"),
        ("partner_pair_scores", "hard_text_image", "hard_image_text"),
    ):  # fmt: skip
        every = model.scores(features[image], features[text])
        torch.testing.assert_close(scores[name], every if name == "scores" else every.diagonal())
    more = quintuplet_scores(model, features["image"], features["text"], texts=features["hard_text"])
    torch.testing.assert_close(more["scores"], model.scores(features["image"], features["hard_text"]))
    loss = AdaptiveQuintupletScoreLoss()(**scores)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    if model.matches_by == "embedding":
        values = {name: part.values for name, part in features.items()}
        torch.testing.assert_close(AdaptiveQuintupletLoss()(**values), loss)
    else:
        assert isinstance(model, CrossAttentionModel)


def test_only_what_an_objective_needs_is_scored() -> None:
    model = models()[0]
    features = encoded(model)
    assert set(quintuplet_scores(model, features["image"], features["text"])) == {"scores"}
    some = {name: part for name, part in features.items() if name not in ("hard_text_image", "hard_image_text")}
    assert set(quintuplet_scores(model, **some)) == {"scores", "hard_text_scores", "hard_image_scores"}


@pytest.mark.parametrize("model", models()[:4:3], ids=lambda model: type(model).__name__)
def test_a_score_matrix_in_blocks_from_packed_texts(model: MatchingModel) -> None:
    model.eval()
    images = model.encode_images(torch.randn(7, 5, 8))
    batches = [model.encode_texts(*tokens(count, seed=count)) for count in (4, 5, 2)]
    packed = PackedFeatures(batches)
    assert len(packed) == 11 and len(packed.values) == sum(int(batch.lengths.sum()) for batch in batches)
    expected = torch.cat([model.scores(images, batch) for batch in batches], dim=1)
    matrix = score_matrix(model, images, packed, image_block=3, text_block=4)
    torch.testing.assert_close(matrix, expected)
    assert not matrix.requires_grad
    assert sum(scores.numel() for _, _, scores in score_blocks(model, images, packed, 2, 3)) == 77


@pytest.mark.parametrize("in_memory", [1 << 20, 0, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_features_come_back_in_any_order(in_memory: int, dtype: torch.dtype, tmp_path: Path) -> None:
    """In memory, and in a file that has no name."""
    padded = torch.randn(9, 5, 6).to(dtype)
    lengths = torch.tensor([5, 1, 3, 4, 2, 5, 1, 1, 2])
    padded *= (torch.arange(5) < lengths[:, None])[..., None]
    store = FeatureStore(in_memory, tmp_path / "new")
    packed = PackedFeatures((Features(padded, lengths).rows(slice(i, i + 2)) for i in range(0, 9, 2)), store=store)
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())
    for index in (torch.tensor([4, 1, 1, 8]), torch.tensor([0]), slice(6, 9), slice(0, 9)):
        rows = packed.rows(index)
        assert rows.lengths is not None and torch.equal(rows.lengths, lengths[index])
        assert torch.equal(rows.values, padded[index][:, : int(lengths[index].max())])
    assert len(packed.rows(slice(3, 3))) == 0


def test_a_full_disk_is_an_error_that_says_where(tmp_path: Path) -> None:
    class Full(FeatureStore):
        def open(self) -> BinaryIO:
            return open("/dev/full", "wb", buffering=0)

    with pytest.raises(OSError, match=f"No space left .*{tmp_path}"):
        PackedFeatures([Features(torch.ones(2, 4, 8))], store=Full(0, tmp_path))


def test_vectors_are_packed_too() -> None:
    model = models()[-1]
    images = model.encode_images(torch.randn(7, 5, 8))
    texts = model.encode_texts(*tokens(11))
    packed = PackedFeatures(images.split(3))
    torch.testing.assert_close(score_matrix(model, packed, texts, 2, 4), model.scores(images, texts).detach())


def test_packing_needs_something_to_pack() -> None:
    with pytest.raises(ValueError, match="batches: expected at least one"):
        PackedFeatures([])


def test_training_separates_pairs() -> None:
    torch.manual_seed(0)
    model = SCAN(20, image_dim=8, dim=16, word_dim=8)
    images = torch.randn(8, 4, 8)
    words = torch.stack([torch.tensor([1, 4 + index, 19 - index, 2]) for index in range(8)])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    loss_fn = AdaptiveQuintupletScoreLoss(objective="online_triplet", online="all")
    for _ in range(60):
        optimizer.zero_grad()
        scores = quintuplet_scores(model, model.encode_images(images), model.encode_texts(words, torch.full((8,), 4)))
        loss_fn(**scores).backward()
        optimizer.step()
    assert (scores["scores"].argmax(1) == torch.arange(8)).all()
