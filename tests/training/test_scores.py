"""Models that match by scores, and models with a loss of their own: training, evaluation and mining."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning_fabric")

from lightning_fabric import Fabric

from aoq_ext import reference
from aoq_ext.data import ImageTextData, Vocabulary
from aoq_ext.encoders import SCAN, EmbeddingModel, Features, GlobalImageEncoder, GRUTextEncoder, quintuplet_scores
from aoq_ext.lists import OfflineNegativeSampler
from aoq_ext.lists.manifest import OtherProblem
from aoq_ext.metrics import retrieval_metrics_from_scores
from aoq_ext.mining.progress import MiningProgress
from aoq_ext.parallel import ALONE, Processes, joined
from aoq_ext.training import (
    Component,
    ConfigError,
    DataConfig,
    History,
    LossConfig,
    ModelConfig,
    TrainConfig,
    evaluate_run,
    load_run,
    mine_run,
    streams,
    train,
)
from aoq_ext.training.batches import Batch, PairBatches
from aoq_ext.training.checkpoint import load_checkpoint
from aoq_ext.training.diagnostics import BatchSimilarities, measure
from aoq_ext.training.encode import EncodedSplit, encode_images, encode_texts
from aoq_ext.training.evaluation import evaluate, evaluate_ensemble
from aoq_ext.training.feed import Feed
from aoq_ext.training.gradient import BatchGradient, Place
from aoq_ext.training.mining import MiningOptions, mine_model
from aoq_ext.training.model import Model, build_model
from aoq_ext.training.objective import TrainingObjective
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.processes import start
from aoq_ext.training.run import RunFiles
from aoq_ext.training.step import StepFeatures, rows_of
from aoq_ext.training.update import Update
from tests.processes import launch
from tests.training.test_micro_batch import Stop, stop_at
from tests.training.test_offline import fake_lists
from tests.training.test_resume import final, remining, same
from tests.training.test_toy import load_toy, toy_config

ENDINGS = ("", " of that kind", " again", " which is seen here and there")


def load_regions(split: str = "train", root: str | None = None) -> ImageTextData:
    """The toy pictures as four regions of 48 numbers each, with captions of different lengths."""
    data = load_toy(split)
    images = data.images.reshape(len(data.images), 4, 48).astype(np.float32) / 100 - 1
    captions = [caption + ENDINGS[number % 4] for number, caption in enumerate(data.captions)]
    return replace(data, images=images, captions=captions)


MODELS: dict[str, ModelConfig] = {
    "scan": ModelConfig(matching=Component("aoq_ext.encoders.SCAN", {"image_dim": 48, "dim": 16, "word_dim": 16})),
    "bfan": ModelConfig(matching=Component("aoq_ext.encoders.BFAN", {"image_dim": 48, "dim": 16, "word_dim": 16})),
    "vsepp": ModelConfig(
        Component("aoq_ext.encoders.GlobalImageEncoder", {"image_dim": 48, "dim": 16}),
        Component("aoq_ext.encoders.GRUTextEncoder", {"dim": 16, "word_dim": 16}),
    ),
    "vsrn": ModelConfig(
        Component("aoq_ext.encoders.VSRNEncoder", {"image_dim": 48, "dim": 16, "layers": 1}),
        Component("aoq_ext.encoders.GRUTextEncoder", {"dim": 16, "word_dim": 16}),
        auxiliary=Component("aoq_ext.encoders.CaptioningLoss", {"region_dim": 16, "hidden": 8, "word_dim": 8}),
        auxiliary_weight=0.5,
    ),
}
MODELS["captioned scan"] = replace(MODELS["scan"], auxiliary=MODELS["vsrn"].auxiliary, auxiliary_weight=0.5)


GRID = Component("aoq_ext.encoders.GridBackbone", {"channels": [8, 6], "geometry": 0.1, "colour": 0.1})


def on_pictures(folder: Path, model: str, **changes: Any) -> TrainConfig:
    """The same models on the cells of a grid that is trained with them."""
    config = MODELS[model]
    parts = {
        name: replace(part, args={**part.args, "image_dim": 8})
        for name in ("image_encoder", "matching")
        if (part := getattr(config, name)) is not None and "image_dim" in part.args
    }
    return toy_config(folder, model=replace(config, backbone=GRID, **parts), log_every=1, **changes)


def config_of(folder: Path, model: str, **changes: Any) -> TrainConfig:
    data = DataConfig(loader="tests.training.test_scores.load_regions")
    return toy_config(folder, model=MODELS[model], data=data, **{"log_every": 1, **changes})


class Setting:
    """A model, SCAN by default, in float64 and a batch."""

    def __init__(self, config: ModelConfig = MODELS["scan"]) -> None:
        data = load_regions()
        vocabulary = Vocabulary.build(data.captions)
        self.pairs = EncodedPairs(data, vocabulary)
        torch.manual_seed(0)
        model = build_model(config, len(vocabulary))
        self.model = model.double()
        first = self.model.backbone or self.model.matching.image_encoder
        first.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
        self.sampler = OfflineNegativeSampler.from_lists(fake_lists(data), top_texts=20, top_images=10)
        self.batch = Batch(2, np.arange(1, 12), np.arange(1, 12) * 2)

    def gradients(self, objective: str, online: str, micro_batch: int | None) -> Any:
        gradient = BatchGradient(self.model, Fabric(accelerator="cpu", devices=1), micro_batch, 0.5)
        options = LossConfig(objective=objective)  # type: ignore[arg-type]
        loss = TrainingObjective(self.model, options, objective, online, ALONE)
        rows = self.pairs.rows(rows_of(self.batch, self.sampler, objective))
        self.model.zero_grad()
        result = gradient(rows, loss, Place(seed=0, step=2), len(self.batch))
        return result, [None if p.grad is None else p.grad.clone() for p in self.model.parameters()], loss


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("objective", "online"),
    [("online_triplet", "all"), ("offline_triplet", "hardest"), ("adaptive_quintuplet", "hardest")],
)
def test_the_loss_is_that_of_the_models_scores(objective: str, online: str) -> None:
    setting = Setting()
    result, gradients, loss = setting.gradients(objective, online, None)
    names = ("hard_image", "hard_text", "hard_text_image", "hard_image_text")
    given = {name: getattr(result.features, name) for name in names if getattr(result.features, name) is not None}
    scores = quintuplet_scores(setting.model.matching, result.features.image, result.features.text, **given)
    expected = reference.adaptive_quintuplet_score_loss(
        **scores, group_ids=result.features.group_ids, objective=objective, online=online
    )
    torch.testing.assert_close(result.loss, expected, rtol=1e-10, atol=1e-10)
    assert all(bool(gradient.any()) for gradient in gradients)
    measured = measure(loss.similarities(result.features), LossConfig(), objective, online)
    terms = sum(value for name, value in measured.items() if name.startswith("loss/"))
    assert terms == pytest.approx(float(expected) / len(setting.batch), rel=1e-4)


def test_terms_of_a_batch_without_negatives_add_up_to_the_loss() -> None:
    scores, groups, offline = torch.rand(4, 4), torch.zeros(4, dtype=torch.int64), (torch.ones(4), torch.ones(4))
    measured = measure(BatchSimilarities(scores, groups, offline), LossConfig(), "offline_triplet", "hardest")
    expected = reference.adaptive_quintuplet_score_loss(scores, *offline, group_ids=groups, objective="offline_triplet")
    terms = sum(value for name, value in measured.items() if name.startswith("loss/"))
    assert terms == pytest.approx(float(expected) / 4)
    assert "distance" not in measured


@pytest.mark.parametrize("micro_batch", [1, 4, 11])
@pytest.mark.parametrize("objective", ["online_triplet", "adaptive_quintuplet"])
def test_micro_batches_have_the_gradient_of_the_whole(objective: str, micro_batch: int) -> None:
    """Micro-batches of captions of different lengths are padded differently."""
    setting = Setting()
    expected, gradients, _ = setting.gradients(objective, "hardest", None)
    got, others, _ = setting.gradients(objective, "hardest", micro_batch)
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(others, gradients, rtol=1e-10, atol=1e-10)


def surrounded(frozen: bool = False) -> ModelConfig:
    """SCAN on a linear map of the regions, with a loss of captions beside it, and nothing at random."""
    auxiliary = MODELS["vsrn"].auxiliary
    assert auxiliary is not None
    return replace(
        MODELS["scan"],
        backbone=Component("tests.training.test_scores.Map", {"frozen": frozen}),
        auxiliary=replace(auxiliary, args={**auxiliary.args, "dropout": 0.0}),
    )


class Map(torch.nn.Linear):
    def __init__(self, frozen: bool) -> None:
        super().__init__(48, 48)
        self.requires_grad_(not frozen)


@pytest.mark.parametrize("micro_batch", [1, 4, None])
def test_a_scoring_model_with_a_backbone_and_a_loss_beside_it(micro_batch: int | None) -> None:
    """The gradient is that of both losses, through the backbone; micro-batches change nothing."""
    setting = Setting(surrounded())
    result, gradients, loss = setting.gradients("adaptive_quintuplet", "hardest", micro_batch)
    model, rows = setting.model, setting.pairs.rows(rows_of(setting.batch, setting.sampler, "adaptive_quintuplet"))
    images, (tokens, lengths) = rows.images, rows.texts_at(slice(None), torch.device("cpu"))
    assert model.backbone is not None and model.auxiliary is not None
    regions = model.matching.encode_images(model.backbone(images))
    own = 0.5 * model.auxiliary(regions.values[:11], tokens[:11], lengths[:11])
    features = StepFeatures.of(regions, model.matching.encode_texts(tokens, lengths), rows, rows.group_ids)
    expected = torch.autograd.grad(loss.loss(features) + own, list(model.parameters()))
    torch.testing.assert_close(result.auxiliary, own.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients, list(expected), rtol=1e-9, atol=1e-9)
    assert all(bool(gradient.any()) for gradient in gradients)


def test_a_frozen_backbone_under_a_scoring_model_gets_no_gradient() -> None:
    whole, parts = (Setting(surrounded(frozen=True)).gradients("online_triplet", "all", size)[1] for size in (None, 4))
    assert whole[:2] == parts[:2] == [None, None]
    torch.testing.assert_close(parts[2:], whole[2:], rtol=1e-10, atol=1e-10)


@pytest.fixture(scope="module", params=list(MODELS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mines its own negatives."""
    folder = tmp_path_factory.mktemp(request.param)
    changes = {**remining(remine_every=3), "epochs": 6, "warmup_epochs": 3, "micro_batch": 5}
    return train(config_of(folder / "run", request.param, **changes))


def test_every_model_learns(run: Path) -> None:
    history = History.load(RunFiles(run).history)
    # Chance is about 150; of 20 pictures the weights drawn at first say much: SCAN ends between 180 and 260.
    least = 175 if "captioned" in str(run) else 200
    assert history.epochs[-1]["validation"]["rsum"] > least
    assert history.epochs[3]["mining"]["seconds"] > 0
    for entry in history.steps:
        terms = sum(value for name, value in entry.items() if name.startswith("loss/"))
        assert terms == pytest.approx(entry["loss"], rel=1e-4)
    own = [entry.get("loss/auxiliary") for entry in history.steps]
    if load_run(run).config.model.auxiliary is not None:
        assert 0 < own[-1] < own[0]
    else:
        assert own == [None] * len(own)


def test_a_stopped_run_resumes_to_the_same_bits(run: Path) -> None:
    whole = load_run(run).config
    parts = replace(whole, run=str(run.parent / "parts"))
    with pytest.raises(Stop):
        train(parts, on_step=stop_at(17))
    train(parts, resume=True)
    first, second = (load_checkpoint(RunFiles(config.run).last) for config in (whole, parts))
    assert same(first["model"], second["model"])
    assert same(first["optimizer"], second["optimizer"])


def all_scores(loaded: Any, pairs: EncodedPairs) -> torch.Tensor:
    """(N, M), one image at a time."""
    with torch.no_grad():
        texts = loaded.model.encode_texts(pairs.tokens, pairs.lengths)
        images = torch.from_numpy(pairs.data.images)
        return torch.cat([loaded.model.scores(loaded.model.encode_images(image[None]), texts) for image in images])


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config_of(tmp_path_factory.mktemp("scan") / "run", "scan", epochs=4, warmup_epochs=4))


def pairs_of(run: Path, split: str) -> tuple[Any, EncodedPairs]:
    loaded = load_run(run)
    return loaded, EncodedPairs(load_split(loaded.config.data, split), loaded.vocabulary)


def test_evaluation_is_that_of_all_scores(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, pairs = pairs_of(scan, "val")
    expected = retrieval_metrics_from_scores(all_scores(loaded, pairs), torch.from_numpy(pairs.caption_image))
    assert evaluate(loaded.model, pairs) == pytest.approx(expected, abs=1e-3)
    history = History.load(RunFiles(scan).history)
    assert history.epochs[loaded.epoch - 1]["validation"] == evaluate(loaded.model, pairs)
    result = evaluate_run(scan, "val", folds=2)
    assert result["rsum"] > expected["rsum"]  # among half of the images
    for name, value in (("_IMAGE_BLOCK", 3), ("_TEXT_BLOCK", 7), ("_IN_MEMORY", 10)):
        monkeypatch.setattr(f"aoq_ext.training.encode.{name}", value)
    assert evaluate(loaded.model, pairs) == pytest.approx(expected, abs=1e-3)
    assert isinstance(EncodedSplit.of(loaded.model, pairs).matrix(), np.memmap)


def test_runs_of_both_kinds_are_averaged(scan: Path, tmp_path: Path) -> None:
    other = train(config_of(tmp_path / "run", "vsepp", epochs=1))
    result = evaluate_ensemble([scan, other], "val")
    loaded, pairs = pairs_of(scan, "val")
    second = load_run(other)
    embedded = second.embed_images(pairs.data.images) @ second.embed_texts(pairs.data.captions).T
    scores = [all_scores(loaded, pairs), embedded]
    expected = retrieval_metrics_from_scores(scores, torch.from_numpy(pairs.caption_image))
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-3)


def test_mining_a_small_set_is_exact(scan: Path) -> None:
    loaded, pairs = pairs_of(scan, "train")
    lists = mine_run(scan, 12, 6)
    scores = all_scores(loaded, pairs).numpy()
    groups = pairs.data.group_ids
    allowed = groups[:, None] != groups[pairs.caption_image][None, :]
    for found, listed, matrix, mask in (
        (lists.text_scores, lists.texts, scores, allowed), (lists.image_scores, lists.images, scores.T, allowed.T),
    ):  # fmt: skip
        expected = -np.sort(-np.where(mask, matrix, -np.inf), axis=1)[:, : listed.shape[1]]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found, np.take_along_axis(matrix, listed.astype(np.int64), 1), rtol=1e-5, atol=1e-5)
    skipped = mine_run(scan, 12, 6, skip=2)
    assert (skipped.texts[:, :10] == lists.texts[:, 2:]).all()
    with pytest.raises(ConfigError, match="margin: expected none for a model that matches by scores"):
        mine_run(scan, 12, 6, margin=0.1)


def test_mining_a_large_set_reranks_what_the_means_find(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, pairs = pairs_of(scan, "train")
    exact = mine_model(loaded.model, pairs, MiningOptions(12, 6))
    monkeypatch.setattr("aoq_ext.training.mining.ALL_PAIRS", 0)
    near, nearer = (mine_model(loaded.model, pairs, MiningOptions(12, 6, rerank=factor)) for factor in (1, 4))
    for lists in (near, nearer):
        assert (np.diff(lists.text_scores, axis=1) <= 0).all()
        assert (lists.text_scores <= exact.text_scores + 1e-5).all()
    assert exact.text_scores.mean() >= nearer.text_scores.mean() > near.text_scores.mean()


def reranked(scan: Path, **options: Any) -> Any:
    loaded, pairs = pairs_of(scan, "train")
    return mine_model(loaded.model, pairs, MiningOptions(12, 6, **options))


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are found by means, and scored in several blocks."""
    monkeypatch.setattr("aoq_ext.training.mining.ALL_PAIRS", 0)
    monkeypatch.setattr("aoq_ext.training.reranking._BLOCK", 1000)


@pytest.mark.usefixtures("in_blocks")
def test_reranking_is_the_models_scores_whatever_the_blocks(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, pairs = pairs_of(scan, "train")
    lists = reranked(scan)
    scores = all_scores(loaded, pairs).numpy()
    for found, listed, matrix in (
        (lists.text_scores, lists.texts, scores), (lists.image_scores, lists.images, scores.T),
    ):  # fmt: skip
        np.testing.assert_allclose(found, np.take_along_axis(matrix, listed.astype(np.int64), 1), rtol=1e-5, atol=1e-5)
        assert (np.diff(found, axis=1) <= 0).all()
    for name, value in (
        ("reranking._BLOCK", 1), ("reranking._SORTED", 30), ("encode._POOLED", 7), ("encode._FEATURES_IN_MEMORY", 0),
    ):  # fmt: skip
        monkeypatch.setattr(f"aoq_ext.training.{name}", value)
    others = reranked(scan)
    assert others.fingerprint() == lists.fingerprint()
    assert (others.text_scores == lists.text_scores).all()


@pytest.mark.usefixtures("in_blocks")
def test_reranking_that_was_stopped_goes_on(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, reports, work = reranked(scan), [], tmp_path / "work"

    def stop(now: MiningProgress) -> None:
        reports.append(now)
        if now.shards == 3 and now.total_shards > 3:
            raise Stop

    with pytest.raises(Stop):
        reranked(scan, work=work, on_progress=stop)
    last = reports[-1]
    assert 0 < last.scores < last.total and last.shards < last.total_shards
    blocks = sorted((work / "scores").glob("*.npz"))
    assert len(blocks) == 3
    content = bytearray(blocks[1].read_bytes())
    content[len(content) // 2] ^= 1
    blocks[1].write_bytes(content)  # damaged
    scored = []
    original = EncodedSplit.of_image
    monkeypatch.setattr(EncodedSplit, "of_image", lambda *given: scored.append(given[1]) or original(*given))
    again: list[MiningProgress] = []
    lists = reranked(scan, work=work, on_progress=again.append)
    assert lists.fingerprint() == expected.fingerprint() and (lists.text_scores == expected.text_scores).all()
    assert 0 < len(scored) == len(set(scored)) < len(lists.texts)
    assert (again[-1].scores, again[-1].shards) == (last.total, last.total_shards)
    (work / "scores/problem.json").write_text('{"weights": "other"}')
    with pytest.raises(OtherProblem, match=r"weights: .*scores holds scores of others; mine into another folder"):
        reranked(scan, work=work)


def test_scores_that_are_no_numbers_are_refused(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would sort first, as the hardest."""
    original = EncodedSplit.of_image

    def broken(split: EncodedSplit, image: int, texts: torch.Tensor) -> torch.Tensor:
        return original(split, image, texts).where(torch.tensor(image != 3), torch.nan)

    monkeypatch.setattr(EncodedSplit, "of_image", broken)
    with pytest.raises(
        ConfigError,
        match=r"matching: expected numbers as scores, got NaN for \d+ of .* pairs, first for image 3 and",
    ):
        mine_run(scan, 12, 6)


@pytest.mark.parametrize("model", MODELS)
def test_a_backbone_is_trained_with_the_rest(model: str, tmp_path: Path) -> None:
    config = on_pictures(tmp_path / "run", model, epochs=2)
    with pytest.raises(Stop):
        train(config, on_step=stop_at(7))
    train(config, resume=True)
    train(replace(config, run=str(tmp_path / "undisturbed")))
    assert same(final(config), final(replace(config, run=str(tmp_path / "undisturbed"))))
    torch.manual_seed(streams.torch_seed(config.seed, 0))
    start = build_model(config.model, len(Vocabulary.build(load_toy().captions))).state_dict()
    trained = load_run(config.run).model.state_dict()
    weights = [name for name in trained if name.startswith("backbone.features") and name.endswith("weight")]
    assert weights and not any(torch.equal(trained[name], start[name]) for name in weights)
    assert evaluate_run(load_run(config.run), "val")["rsum"] > 0


def test_what_does_not_fit_is_refused(scan: Path, tmp_path: Path) -> None:
    loaded = load_run(scan)
    with pytest.raises(ConfigError, match="run: expected a model that matches by embeddings, got one that matches by"):
        loaded.embed_texts(["a thing"])
    model = ModelConfig(matching=Component("tests.training.test_scores.Vectors"), auxiliary=MODELS["vsrn"].auxiliary)
    with pytest.raises(ValueError, match=r"image_encoder: expected encode\(images\) .* got GlobalImageEncoder with"):
        build_model(model, 9)(torch.zeros(3, 2, 48), torch.ones(3, 2).long(), torch.ones(3).long(), pairs=3)
    with pytest.raises(ConfigError, match=r"matching.factory: expected an aoq_ext.encoders.MatchingModel, got Linear"):
        build_model(ModelConfig(matching=Component("torch.nn.Linear", {"in_features": 1, "out_features": 1})), 9)
    with pytest.raises(ConfigError, match=r"model.auxiliary: expected an image encoder with encode\(images\) -> emb"):
        build_model(replace(MODELS["vsepp"], auxiliary=MODELS["vsrn"].auxiliary), 9)
    wrong = Model(SCAN(9, image_dim=4, dim=4, word_dim=4))
    wrong.matching.scores = lambda images, texts: torch.zeros(2)  # type: ignore[method-assign]
    features = wrong.encode_images(torch.zeros(3, 2, 4))
    with pytest.raises(ConfigError, match=r"expected scores to return floating-point numbers of shape \(3, 3\), got"):
        wrong.scores(features, features)


class Vectors(EmbeddingModel):
    """A matching model that scores, and has no regions."""

    matches_by = "score"

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__(GlobalImageEncoder(48, 16), GRUTextEncoder(vocabulary_size, 16, 16))


class Scaled(EmbeddingModel):
    """A matching model of embeddings, which encodes images in its own way."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__(GlobalImageEncoder(48, 16), GRUTextEncoder(vocabulary_size, 16, 16))
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def encode_images(self, images: torch.Tensor, lengths: torch.Tensor | None = None) -> Features:
        return Features(super().encode_images(images, lengths).values * self.scale)


def test_a_matching_model_of_embeddings_is_taken_whole(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", "vsepp", epochs=1)
    loaded = load_run(
        train(replace(config, model=ModelConfig(matching=Component("tests.training.test_scores.Scaled"))))
    )
    scale = loaded.model.matching.scale
    assert scale != 3
    lengths = loaded.embed_images(load_regions("val").images).norm(dim=1)
    torch.testing.assert_close(lengths, scale.detach().expand_as(lengths))


@pytest.mark.parametrize("model", MODELS)
def test_weights_are_named_as_in_checkpoints(model: str) -> None:
    """Encoders of embeddings without a prefix, a scoring model under ``matching``; in the order of the parameters."""
    built = build_model(replace(MODELS[model], backbone=GRID), 9)
    state, names = built.state_dict(), [name for name, _ in built.named_parameters()]
    parts = list(dict.fromkeys(name.partition(".")[0] for name in state))
    encoders = ["image_encoder", "text_encoder"] if built.embeds else ["matching"]
    assert parts == ["backbone", *encoders] + ["auxiliary"] * (built.auxiliary is not None)
    as_parameters = [name if name in state else name.removeprefix("matching.") for name in names]
    assert as_parameters == [name for name in state if name in as_parameters]
    other = build_model(replace(MODELS[model], backbone=GRID), 9)
    other.load_state_dict({name: torch.full_like(value, 2) for name, value in state.items()})
    assert all(bool((value == 2).all()) for value in other.state_dict().values())


def test_a_model_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains with a loss beside it, in micro-batches, and is evaluated and mined with."""
    page = (Path(__file__).resolve().parents[2] / "docs/training.md").read_text(encoding="utf-8")
    module = ModuleType("models_of_the_page")
    exec(next(block for block in page.split("```python\n") if "BestRegions" in block).partition("```")[0], vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = replace(
        MODELS["captioned scan"], matching=Component("models_of_the_page.BestRegions", {"image_dim": 48, "dim": 16})
    )
    changes = {**remining(remine_every=1), "epochs": 2, "warmup_epochs": 1, "micro_batch": 5}
    run = train(replace(config_of(tmp_path / "run", "scan", **changes), model=model))
    loaded, pairs = pairs_of(run, "val")
    expected = retrieval_metrics_from_scores(all_scores(loaded, pairs), torch.from_numpy(pairs.caption_image))
    assert evaluate(loaded.model, pairs) == pytest.approx(expected, abs=1e-3)
    assert mine_run(run, 12, 6).texts.shape[1] == 12
    images = loaded.model.encode_images(torch.from_numpy(pairs.data.images[:8]))
    texts = loaded.model.encode_texts(pairs.tokens[:8], pairs.lengths[:8])
    scores = loaded.model.scores(images, texts)
    torch.testing.assert_close(scores.diagonal(), loaded.model.pair_scores(images, texts))
    best = [(images.values[3] @ word).max() for word in texts.values[5, : int(pairs.lengths[5])]]
    torch.testing.assert_close(scores[3, 5], torch.stack(best).mean())


def spread_configs(folder: Path) -> dict[str, TrainConfig]:
    return {
        "scan": config_of(folder / "scan", "scan", batch_size=9, micro_batch=2, **remining(remine_every=1)),
        "bfan": config_of(folder / "bfan", "bfan", batch_size=7, epochs=2),
        "captions": config_of(folder / "captions", "vsrn", epochs=2),  # batch norm: each its own
    }


def spread(rank: int, folder: Path, scan: Path) -> None:
    for config in spread_configs(folder).values():
        train(config)
    start(config_of(folder / "other", "scan"))
    processes = joined()
    for split in ("train", "val"):
        loaded, pairs = pairs_of(scan, split)
        assert evaluate(loaded.model, pairs, processes=processes) == evaluate(loaded.model, pairs)
        expected, got = (
            mine_model(loaded.model, pairs, MiningOptions(12, 6), processes=who) for who in (ALONE, processes)
        )
        assert got.fingerprint() == expected.fingerprint()
        assert (got.text_scores == expected.text_scores).all()
    spread_in_files(folder, *pairs_of(scan, "train"), processes)


def spread_in_files(folder: Path, loaded: Any, pairs: EncodedPairs, processes: Processes) -> None:
    """One file of features for both processes, and blocks of scores that either may find."""
    expected, inner = mine_model(loaded.model, pairs, MiningOptions(12, 6)), folder / "features"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoq_ext.training.reranking._BLOCK", 1000)
        patch.setattr("aoq_ext.training.encode._FEATURES_IN_MEMORY", 0)
        for encode, side in (
            (encode_images, (pairs.data.images,)), (encode_texts, (pairs.tokens, pairs.lengths)),
        ):  # fmt: skip
            one, two = (encode(loaded.model, *side, 7, who, inner) for who in (processes, ALONE))
            assert torch.equal(one.values, two.values) and torch.equal(one.lengths, two.lengths)
        assert not list(inner.iterdir())
        options = MiningOptions(12, 6, work=folder / "work")
        for _ in range(2):
            got = mine_model(loaded.model, pairs, options, processes=processes)
            assert got.fingerprint() == expected.fingerprint()
        if processes.leads:
            next((folder / "work/scores").glob("*1.npz")).unlink()
        processes.meet("removing a block", lambda: None)
        got = mine_model(loaded.model, pairs, options, processes=processes)
        assert (got.text_scores == expected.text_scores).all()


def test_processes_train_what_one_does(tmp_path: Path, scan: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    launch(2, spread, two, scan)
    for name, config in spread_configs(one).items():
        if name == "captions":
            continue
        train(config)
        expected, got = (load_checkpoint(RunFiles(folder / name).last) for folder in (one, two))
        torch.testing.assert_close(got["model"], expected["model"], rtol=1e-3, atol=2e-4)
        first, second = (History.load(RunFiles(folder / name).history) for folder in (one, two))
        for before, after in zip(first.steps, second.steps, strict=True):
            assert after == pytest.approx(before, rel=1e-3, abs=1e-4), name
    own = [entry["loss/auxiliary"] for entry in History.load(RunFiles(two / "captions").history).steps]
    assert own[-1] < own[0]


def gradient_configs(folder: Path) -> dict[str, TrainConfig]:
    """No batch normalisation, no dropout: the arithmetic does not depend on how a batch is shared out."""
    vsrn = MODELS["vsrn"]
    assert vsrn.auxiliary is not None
    captions = replace(
        vsrn,
        image_encoder=replace(vsrn.image_encoder, args={**vsrn.image_encoder.args, "layers": 0}),
        auxiliary=replace(vsrn.auxiliary, args={**vsrn.auxiliary.args, "dropout": 0.0}),
    )
    return {
        "captions": replace(config_of(folder, "vsrn", batch_size=9), model=captions),
        "captions in parts": replace(config_of(folder, "vsrn", batch_size=9, micro_batch=2), model=captions),
        "accumulated": config_of(folder, "vsepp", batch_size=7, accumulate=2),
        "scan": config_of(folder, "scan", batch_size=9),
    }


def gradients_of_a_step(config: TrainConfig, clip_norm: float) -> torch.Tensor:
    """Of every parameter, as the optimizer is given them."""
    config = replace(config, optimizer=replace(config.optimizer, clip_norm=clip_norm))
    fabric = start(config)
    pairs = EncodedPairs(data := load_regions(), vocabulary := Vocabulary.build(data.captions))
    torch.manual_seed(0)
    model = build_model(config.model, len(vocabulary))
    processes = joined()
    update = Update(config, fabric, processes, model)
    objective = TrainingObjective(model, config.loss, "online_triplet", "all", processes)
    batches = PairBatches(pairs.captions, config.batch_size, 0, config.accumulate)
    step = next(Feed(config, pairs, batches, processes).epoch(0, 0, "online_triplet", None))
    update(step, objective, lr=1e-3, measured=False)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def save_gradients(rank: int, folder: Path) -> None:
    for name, config in gradient_configs(folder).items():
        for clip_norm in (1e9, 0.5):
            gradients = gradients_of_a_step(config, clip_norm)
            if rank == 0:
                torch.save(gradients, folder / f"{name} {clip_norm}.pt")


def test_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    """Weights alone would not show a wrong factor, which Adam divides out."""
    launch(2, save_gradients, tmp_path)
    for name, config in gradient_configs(tmp_path).items():
        whole, clipped = (torch.load(tmp_path / f"{name} {clip_norm}.pt") for clip_norm in (1e9, 0.5))
        expected = gradients_of_a_step(config, 1e9)
        assert expected.norm() > 1
        torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()), msg=name)
        torch.testing.assert_close(clipped, expected * (0.5 / expected.norm()), rtol=1e-3, atol=1e-5, msg=name)
