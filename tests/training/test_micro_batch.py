"""Micro-batches have the gradient of the whole batch; accumulated batches have the sum of theirs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning_fabric")

from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor, nn

from aoq_ext.data import Vocabulary
from aoq_ext.encoders import EmbeddingModel, Features, GRUEncoder
from aoq_ext.lists import OfflineNegativeSampler
from aoq_ext.parallel import ALONE
from aoq_ext.training import Component, ConfigError, History, LossConfig, ModelConfig, OptimizerConfig, load_run, train
from aoq_ext.training.batches import Batch
from aoq_ext.training.checkpoint import load_checkpoint
from aoq_ext.training.gradient import BatchGradient, BatchResult, Place
from aoq_ext.training.model import Model
from aoq_ext.training.objective import TrainingObjective
from aoq_ext.training.pairs import EncodedPairs
from aoq_ext.training.run import RunFiles
from aoq_ext.training.step import Step, StepFeatures, StepRows, rows_of
from aoq_ext.training.update import Update
from tests.training.test_offline import fake_lists
from tests.training.test_toy import adaptive, load_toy, mined, toy_config, trained


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


OBJECTIVES = ["online_triplet", "offline_triplet", "offline_quintuplet", "adaptive_quintuplet"]


class Flat(nn.Module):
    """An image encoder without normalisation over the batch."""

    def __init__(self, dim: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(192, 32), nn.Tanh(), nn.Dropout(dropout), nn.Linear(32, dim))
        self.widest = 0  # rows seen at a time

    def forward(self, images: Tensor) -> Tensor:
        self.widest = max(self.widest, len(images))
        weight = self.layers[0].weight
        return nn.functional.normalize(self.layers(images.flatten(1).to(weight.dtype)), dim=1)


class Setting:
    """A model in float64 and a batch of the toy data."""

    def __init__(self, dropout: float = 0.0, image: nn.Module | None = None) -> None:
        data = load_toy()
        vocabulary = Vocabulary.build(data.captions)
        self.pairs = EncodedPairs(data, vocabulary)
        torch.manual_seed(0)
        text = GRUEncoder(len(vocabulary), 16, 16, 16, dropout=dropout, word_dropout=dropout)
        self.model = Model(EmbeddingModel(image or Flat(dropout=dropout), text)).double()
        self.sampler = OfflineNegativeSampler.from_lists(fake_lists(data), top_texts=20, top_images=10)
        self.batch = Batch(3, np.arange(1, 24), np.arange(1, 24) * 2)

    def rows(self, batch: Batch, objective: str = "adaptive_quintuplet") -> StepRows:
        return self.pairs.rows(rows_of(batch, self.sampler, objective))

    def gradients(
        self,
        objective: str,
        online: str,
        micro_batch: int | None,
        batch: Batch | None = None,
        fabric: Fabric | None = None,
        weight: float = 1.0,
    ) -> tuple[BatchResult, list[Tensor]]:
        fabric = fabric or Fabric(accelerator="cpu", devices=1)
        gradient = BatchGradient(self.model, fabric, micro_batch, weight)
        loss = TrainingObjective(self.model, LossConfig(objective=objective), objective, online, ALONE)  # type: ignore[arg-type]
        self.model.zero_grad()
        batch = batch or self.batch
        result = gradient(self.rows(batch, objective), loss, Place(seed=5, step=3), len(batch))
        return result, [parameter.grad.clone() for parameter in self.model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("micro_batch", [1, 7, 23, 40])
@pytest.mark.parametrize(("objective", "online"), [*((o, "hardest") for o in OBJECTIVES), ("online_triplet", "all")])
def test_the_gradient_is_that_of_the_whole_batch(objective: str, online: str, micro_batch: int) -> None:
    setting = Setting()
    expected, gradients = setting.gradients(objective, online, None)
    got, others = setting.gradients(objective, online, micro_batch)
    assert any(bool(gradient.any()) for gradient in gradients)
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(others, gradients, rtol=1e-10, atol=1e-10)
    assert got.features.sides.keys() == expected.features.sides.keys()
    for name, side in expected.features.sides.items():
        torch.testing.assert_close(got.features.sides[name].values, side.values)


def test_in_float32_it_is_so_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting()
    setting.model.float()
    _, gradients = setting.gradients("adaptive_quintuplet", "hardest", None)
    _, others = setting.gradients("adaptive_quintuplet", "hardest", 6)
    torch.testing.assert_close(others, gradients, rtol=1e-4, atol=1e-5)


def test_both_passes_drop_the_same() -> None:
    """With dropout: the gradient of a loss whose features were encoded in the same micro-batches, with one graph."""
    setting = Setting(dropout=0.3)
    result, gradients = setting.gradients("adaptive_quintuplet", "hardest", 9)
    rows = setting.rows(setting.batch)
    place, parts = Place(seed=5, step=3), []
    for number, chunk in enumerate(rows.chunks(9)):
        place.seed_torch(number)
        images = rows.images_at(chunk, torch.device("cpu"))
        tokens = rows.texts_at(chunk, torch.device("cpu"))
        parts.append(setting.model(images, *tokens)[:2])
    images, texts = (Features.concatenate(side) for side in zip(*parts, strict=True))
    torch.testing.assert_close(images.values[:23], result.features.image.values, rtol=1e-12, atol=1e-12)
    loss = TrainingObjective(setting.model, LossConfig(), "adaptive_quintuplet", "hardest", ALONE)
    setting.model.zero_grad()
    loss.loss(StepFeatures.of(images, texts, rows, rows.group_ids)).backward()
    expected = [parameter.grad for parameter in setting.model.parameters()]
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-10)


class Remembering(Flat):
    """Whose features depend on what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.norm = nn.BatchNorm1d(192)

    def forward(self, images: Tensor) -> Tensor:
        self.seen += 1
        images = self.norm(images.flatten(1).to(self.norm.weight.dtype))
        return super().forward(images) * (1 + 0.01 * self.seen)


def test_statistics_are_those_of_one_pass() -> None:
    setting = Setting(image=Remembering())
    setting.gradients("offline_triplet", "hardest", 10)
    assert setting.model.matching.image_encoder.seen == 6  # of 23 + 23 rows
    assert setting.model.matching.image_encoder.norm.num_batches_tracked == 6


def test_a_frozen_encoder_gets_no_gradient() -> None:
    setting = Setting()
    setting.model.matching.image_encoder.requires_grad_(False)
    _, gradients = setting.gradients("adaptive_quintuplet", "hardest", None)
    _, others = setting.gradients("adaptive_quintuplet", "hardest", 8)
    assert all(parameter.grad is None for parameter in setting.model.matching.image_encoder.parameters())
    torch.testing.assert_close(others, gradients, rtol=1e-10, atol=1e-10)


def test_no_more_rows_than_a_micro_batch_are_encoded_together() -> None:
    setting = Setting()
    setting.gradients("adaptive_quintuplet", "hardest", 6)
    assert setting.model.matching.image_encoder.widest == 6


class Held(nn.Module):
    """Counts the numbers that graphs keep of its input."""

    now = most = 0

    def forward(self, images: Tensor) -> Tensor:
        return _Hold.apply(images)


class _Hold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        if rows.requires_grad:
            Held.now += rows.numel()
            Held.most = max(Held.most, Held.now)
        return rows.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        Held.now -= gradient.numel()
        return gradient


def test_memory_is_bounded() -> None:
    """The graphs alive at one time are of one micro-batch, whatever the batch."""
    setting = Setting()
    setting.model.matching.image_encoder.layers.insert(1, Held())
    most = {}
    for rows in (8, 32):
        for micro_batch in (4, None):
            gc.collect()
            Held.now = Held.most = 0
            batch = Batch(3, np.arange(rows), np.arange(rows) * 2)
            setting.gradients("adaptive_quintuplet", "hardest", micro_batch, batch)
            most[rows, micro_batch] = Held.most
    assert most == {(8, 4): 4 * 32, (32, 4): 4 * 32, (8, None): 3 * 8 * 32, (32, None): 3 * 32 * 32}


def test_chunks_keep_pairs_and_negatives_apart() -> None:
    rows = StepRows(torch.zeros(15, 2), torch.zeros(15, 4), torch.ones(15), torch.zeros(5))
    assert [(chunk.start, chunk.stop) for chunk in rows.chunks(3)] == [
        (0, 3), (3, 5), (5, 8), (8, 10), (10, 13), (13, 15),
    ]  # fmt: skip
    assert rows.chunks(None) == rows.chunks(15) == rows.chunks(99) == [slice(0, 15)]


def test_features_of_different_lengths_are_padded_to_the_longest() -> None:
    first, second = (
        Features(torch.ones(2, 3, 4), torch.tensor([3, 1])),
        Features(torch.ones(1, 5, 4), torch.tensor([5])),
    )
    whole = Features.concatenate([first, second])
    assert whole.values.shape == (3, 5, 4)
    assert whole.values.sum(dim=(1, 2)).tolist() == [12, 12, 20]
    assert whole.lengths is not None and whole.lengths.tolist() == [3, 1, 5]
    assert [len(part) for part in whole.split([1, 2])] == [1, 2]


def flat(**changes: Any) -> dict[str, Any]:
    text = Component("aoq_ext.encoders.GRUEncoder", {"dim": 16, "word_dim": 16, "hidden": 16, "word_dropout": 0.0})
    return {"model": ModelConfig(Component("tests.training.test_micro_batch.Flat"), text), **changes}


def weights(run: Path) -> dict[str, Tensor]:
    model: dict[str, Tensor] = load_checkpoint(RunFiles(run).last)["model"]
    return model


def test_a_run_in_micro_batches_ends_where_the_plain_one_does(tmp_path: Path) -> None:
    lists = mined(trained(tmp_path), tmp_path)
    plain = train(toy_config(tmp_path / "plain", **flat(), **adaptive(lists)))
    small = train(toy_config(tmp_path / "small", **flat(micro_batch=3), **adaptive(lists)))
    torch.testing.assert_close(weights(small), weights(plain), rtol=1e-3, atol=1e-4)
    first, second = (History.load(RunFiles(run).history).epochs for run in (plain, small))
    assert [entry["loss"] for entry in second] == pytest.approx([entry["loss"] for entry in first], rel=1e-4)


def test_accumulated_batches_add_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A step's gradient is the sum of those of its batches, each with its own negatives alone."""
    setting = Setting()
    pairs = setting.batch.rows(slice(0, 22))
    summed, whole = (
        [sum(both) for both in zip(*(setting.gradients("offline_triplet", "hardest", None, part)[1] for part in parts))]
        for parts in (pairs.parts(2), [pairs])
    )
    fabric, taken = Fabric(accelerator="cpu", devices=1), []
    config = toy_config(tmp_path, accumulate=2, micro_batch=4, optimizer=OptimizerConfig(clip_norm=1e9))
    update = Update(config, fabric, ALONE, setting.model)
    monkeypatch.setattr(
        fabric, "clip_gradients", lambda model, *_, **__: taken.extend(p.grad.clone() for p in model.parameters())
    )
    loss = TrainingObjective(setting.model, LossConfig(), "offline_triplet", "hardest", ALONE)
    step = Step(pairs.step, len(pairs), [setting.rows(part, "offline_triplet") for part in pairs.parts(2)])
    update(step, loss, 1e-3, measured=False)
    torch.testing.assert_close(taken, summed, rtol=1e-10, atol=1e-10)
    assert not all(torch.allclose(one, other) for one, other in zip(taken, whole))


def test_a_run_that_accumulates(tmp_path: Path) -> None:
    run = train(toy_config(tmp_path / "run", **flat(accumulate=2, epochs=2, log_every=1)))
    history = History.load(RunFiles(run).history)
    assert [entry["step"] for entry in history.epochs] == [2, 4]  # 40 images, 16 a step
    for entry in history.steps:
        terms = sum(value for name, value in entry.items() if name.startswith("loss/"))
        assert terms == pytest.approx(entry["loss"], rel=1e-4)


def test_more_accumulated_batches_than_an_epoch_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accumulate: expected at most 5, since an epoch has 40 images and a batch 8"):
        train(toy_config(tmp_path / "run", accumulate=6))


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_mixed_precision_learns(tmp_path: Path, micro_batch: int | None) -> None:
    run = train(toy_config(tmp_path / "run", **flat(precision="bf16-mixed", micro_batch=micro_batch, epochs=12)))
    assert History.load(RunFiles(run).history).epochs[-1]["validation"]["rsum"] > 300
    assert load_run(run).model.matching.image_encoder.layers[0].weight.dtype == torch.float32


def test_float16_is_refused_where_it_would_silently_be_something_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision: expected 32-true or bf16-mixed on the CPU, got 16-mixed"):
        train(toy_config(tmp_path / "run", precision="16-mixed"))


class OwnLoss(nn.Module):
    """A loss of a model's own, its mean over the pairs."""

    def forward(self, regions: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        return ((regions[:, 0] * lengths).sum() + tokens.sum()) / len(tokens)


class Regions(Flat):
    """An image encoder that has regions."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self(images)
        return embeddings, 2 * embeddings


@pytest.mark.parametrize("micro_batch", [5, None])
def test_scaled_gradients_are_the_plain_ones_times_the_scale(micro_batch: int | None) -> None:
    """What Fabric does with 16-mixed on a GPU; a model's own loss is scaled as well."""
    setting = Setting(image=Regions())
    setting.model.auxiliary = OwnLoss()
    _, expected = setting.gradients("adaptive_quintuplet", "hardest", None)
    precision = MixedPrecision("bf16-mixed", "cpu")
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    precision.forward_context = nullcontext  # type: ignore[method-assign]
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[precision])
    _, scaled = setting.gradients("adaptive_quintuplet", "hardest", micro_batch, fabric=fabric)
    torch.testing.assert_close(scaled, [1024 * gradient for gradient in expected], rtol=1e-6, atol=1e-6)


def test_a_models_own_loss_is_weighted_and_of_the_pairs_alone() -> None:
    setting = Setting(image=Regions())
    _, without = setting.gradients("adaptive_quintuplet", "hardest", None)
    setting.model.auxiliary = OwnLoss()
    rows = setting.rows(setting.batch)
    images = rows.images_at(slice(23), torch.device("cpu"))
    pairs = rows.texts_at(slice(23), torch.device("cpu"))
    own = setting.model(images, *pairs, 23)[2]
    image = list(setting.model.matching.image_encoder.parameters())
    expected = [a + 0.5 * b for a, b in zip(without, torch.autograd.grad(own, image))]
    for micro_batch in (None, 5):
        result, gradients = setting.gradients("adaptive_quintuplet", "hardest", micro_batch, weight=0.5)
        torch.testing.assert_close(result.auxiliary, 0.5 * own.detach(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gradients[: len(image)], expected, rtol=1e-10, atol=1e-10)


class Stop(Exception):
    pass


def stop_at(step: int) -> Callable[[int], None]:
    def on_step(steps: int) -> None:
        if steps == step:
            raise Stop

    return on_step


@pytest.mark.parametrize(
    "changes", [{"micro_batch": 3}, {"accumulate": 2}, {"precision": "bf16-mixed", "micro_batch": 5}], ids=str
)
def test_resumed_equals_uninterrupted(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, parts = (toy_config(tmp_path / name, checkpoint_every=2, **changes) for name in ("whole", "parts"))
    train(whole)
    with pytest.raises(Stop):
        train(parts, on_step=stop_at(3))
    train(parts, resume=True)
    first, second = weights(Path(whole.run)), weights(Path(parts.run))
    assert all(torch.equal(first[name], second[name]) for name in first)
