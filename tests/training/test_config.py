"""Configurations: files and flags, the shipped ones, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning_fabric")

from torch import nn

from aoq_ext.encoders import EmbeddingModel
from aoq_ext.training import (
    Component,
    ConfigError,
    DataConfig,
    LossConfig,
    ModelConfig,
    OfflineConfig,
    TrainConfig,
    load_config,
    train,
)
from aoq_ext.training.components import build_encoder
from aoq_ext.training.config import OptimizerConfig, check, check_same_run, to_dict
from aoq_ext.training.model import Model, build_model
from aoq_ext.training.schedule import learning_rate
from tests.training.test_toy import load_toy, toy_config

CONFIGS = Path(__file__).parents[2] / "configs" / "icons"


def spelled_out(config: TrainConfig) -> TrainConfig:
    """Without the encoders' arguments, of which the files spell out more than the defaults do."""
    encoders = replace(
        config.model,
        image_encoder=replace(config.model.image_encoder, args={}),
        text_encoder=replace(config.model.text_encoder, args={}),
    )
    return replace(config, model=encoders)


def test_shipped_configurations_are_the_defaults_and_their_second_round() -> None:
    first, second = load_config(CONFIGS / "round1.yaml"), load_config(CONFIGS / "aoq.yaml")
    assert spelled_out(first) == spelled_out(TrainConfig())
    further = TrainConfig(
        run="runs/aoq",
        optimizer=OptimizerConfig(lr=3e-4),
        init="runs/round1",
        epochs=2,
        warmup_epochs=0,
        loss=LossConfig(objective="adaptive_quintuplet", detach_weight=True),
        offline=OfflineConfig(lists="runs/negatives"),
    )
    assert spelled_out(second) == spelled_out(further)
    for config in (first, second):
        check(config)
        assert repr(build_model(config.model, 50)) == repr(build_model(TrainConfig().model, 50))


def test_overrides_go_before_the_file() -> None:
    config = load_config(CONFIGS / "round1.yaml", seed=4, **{"optimizer.lr": 0.5, "data.validation_split": None})
    assert (config.seed, config.optimizer.lr, config.data.validation_split) == (4, 0.5, None)
    again = load_config(CONFIGS / "aoq.yaml", **{"offline.remine_every": 5, "offline.lists": None})
    assert again.offline == OfflineConfig(remine_every=5)


def test_a_model_of_the_papers_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.yaml"
    path.write_text("model:\n  matching: {factory: aoq_ext.encoders.SCAN, args: {image_dim: 8, dim: 4}}\n")
    config = load_config(path, micro_batch=32)
    assert config.model.matching == Component("aoq_ext.encoders.SCAN", {"image_dim": 8, "dim": 4})
    assert (config.micro_batch, config.accumulate) == (32, 1)
    assert not build_model(config.model, 9).embeds


def test_an_entry_that_a_run_was_started_without_had_its_default() -> None:
    config = to_dict(TrainConfig())
    stored = {name: value for name, value in config.items() if name != "accumulate"}
    check_same_run(config, stored)
    with pytest.raises(ConfigError, match="accumulate: the run to resume was started with 1, got 2"):
        check_same_run({**config, "accumulate": 2}, stored)


def test_a_missing_file_and_unknown_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config: expected a YAML file, but .*none.yaml does not exist"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "bad.yaml"
    for text, message in (
        ("epocs: 3\n", "epocs"),
        ("epochs: many\n", "epochs"),
        ("loss: {objective: best}\n", "objective"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_config(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: expected a positive number, got 0"),
        ({"batch_size": 1}, "batch_size: expected at least 2"),
        ({"warmup_epochs": 4}, r"warmup_epochs: expected a number from 0 to epochs \(3\), got 4"),
        ({"seed": -1}, "seed: expected a number from 0"),
        ({"micro_batch": 0}, "micro_batch: expected a positive number of rows or null, got 0"),
        ({"accumulate": 0}, "accumulate: expected a positive number, got 0"),
        ({"process_timeout": 0}, "process_timeout: expected a positive number, got 0"),
        ({"model": ModelConfig(auxiliary_weight=-1)}, "model.auxiliary_weight: expected 0 or more, got -1"),
        ({"offline": OfflineConfig(rerank=0)}, "offline.rerank: expected a positive number, got 0"),
        ({"threads": 0}, "threads: expected a positive number or null, got 0"),
        ({"optimizer": OptimizerConfig(lr=float("nan"))}, "optimizer.lr: expected a positive number, got nan"),
        ({"optimizer": OptimizerConfig(drop_at=0)}, r"optimizer.drop_at: expected a fraction in \(0, 1\], got 0"),
        ({"optimizer": OptimizerConfig(weight_decay=-1)}, "optimizer.weight_decay: expected 0 or more, got -1"),
        ({"run": " "}, "run: expected a folder, got ' '"),
        ({"optimizer": OptimizerConfig(weight_decay=float("nan"))}, "optimizer.weight_decay: expected a finite number"),
        ({"loss": LossConfig(margin_online=float("nan"))}, "loss.margin_online: expected a finite number, got nan"),
        ({"loss": LossConfig(margin_offline=float("inf"))}, "loss.margin_offline: expected a finite number, got inf"),
        ({"loss": LossConfig(beta=float("nan"))}, "loss.beta: expected a finite number, got nan"),
        ({"loss": LossConfig(objective="offline_triplet")}, "offline.lists: expected the folder that `aoq mine` wrote"),
        ({"offline": OfflineConfig(remine_every=0)}, "offline.remine_every: expected a positive number of epochs or"),
        ({"offline": OfflineConfig(batch_share=1)}, r"offline.batch_share: expected a fraction in \[0, 1\), got 1"),
        ({"offline": OfflineConfig(batch_share=-0.5)}, r"offline.batch_share: expected a fraction in .*, got -0.5"),
        (
            {"offline": OfflineConfig(batch_share=float("nan"))},
            "offline.batch_share: expected a fraction in .*, got nan",
        ),
        (
            {"offline": OfflineConfig(batch_share=0.5)},
            "offline.lists: expected the folder .* offline.batch_share needs",
        ),
        ({"offline": OfflineConfig(stale_after=-1)}, "offline.stale_after: expected 0 or more epochs or null, got -1"),
        ({"data": DataConfig(loader="load_icons")}, "data.loader: expected a dotted path"),
        ({"data": DataConfig(loader="aoq_ext.nothing.load")}, "data.loader: cannot import 'aoq_ext.nothing.load'"),
        ({"data": DataConfig(loader="aoq_ext.data.load")}, "data.loader: the module 'aoq_ext.data' has no 'load'"),
    ],
)
def test_values_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(replace(toy_config(tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


def test_encoders_are_checked() -> None:
    with pytest.raises(
        ConfigError, match=r"image.args: expected the arguments of .*ConvEncoder\(dim.*got \{'size': 3\}"
    ):
        build_encoder(Component("aoq_ext.encoders.ConvEncoder", {"size": 3}), "image")
    with pytest.raises(ConfigError, match=r"image.factory: expected a torch.nn.Module, got PurePosixPath"):
        build_encoder(Component("pathlib.PurePosixPath"), "image")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: None, "expected an aoq_ext.data.ImageTextData, got NoneType"),
        (lambda data: replace(data, images=data.images.astype(np.int64)), "uint8 or float32, got ndarray of int64"),
        (lambda data: replace(data, group_ids=data.group_ids * 0), "expected images of at least 2 groups, got 1"),
    ],
)
def test_what_a_loader_returns_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    monkeypatch.setattr("tests.training.test_toy.load_toy", lambda split: change(load_toy(split)))
    with pytest.raises(ConfigError, match=rf"data.loader: tests.training.test_toy.load_toy\('train'\): .*{message}"):
        train(toy_config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


class Returns(nn.Module):
    """An encoder that returns the same whatever it is given."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, *inputs: object) -> object:
        return self.value


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (None, torch.ones(3, 4), "model.image_encoder: expected an encoder that returns a tensor, got NoneType"),
        (torch.ones(3, 4, 4), torch.ones(3, 4), r"model.image_encoder: .*got torch.float32 of shape \(3, 4, 4\)"),
        (torch.ones(3, 4), torch.ones(3, 4).long(), r"model.text_encoder: .*got torch.int64 of shape \(3, 4\)"),
        (torch.ones(3, 4), torch.ones(3, 5), "model.text_encoder: .* as those of model.image_encoder, 4, got 5"),
    ],
)
def test_what_an_encoder_returns_is_checked(image: object, text: object, message: str) -> None:
    model = Model(EmbeddingModel(Returns(image), Returns(text)))
    with pytest.raises(ConfigError, match=message):
        model(torch.ones(3, 2), torch.ones(3, 2).long(), torch.ones(3).long())


def test_any_module_can_be_an_encoder() -> None:
    linear = build_encoder(
        Component("torch.nn.Linear", {"in_features": 3, "out_features": 2}), "image", vocabulary_size=9
    )
    assert isinstance(linear, nn.Linear)  # which takes no vocabulary_size, and is given none


def test_learning_rate_schedules() -> None:
    assert learning_rate(OptimizerConfig(lr=1.0, schedule="constant"), 99, 100) == 1.0
    step = OptimizerConfig(lr=1.0, schedule="step", drop_at=0.5)
    assert [learning_rate(step, at, 100) for at in (0, 49, 50, 99)] == [1.0, 1.0, 0.1, 0.1]
    cosine = [learning_rate(OptimizerConfig(lr=1.0), at, 100) for at in range(100)]
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.5)
    assert 0 < cosine[99] < 0.001
    assert cosine == sorted(cosine, reverse=True)


def test_a_base_gives_what_a_file_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "first.yaml").write_text("epochs: 7\nseed: 1\nloss: {alpha: 0.2, beta: 1.0}\n")
    (tmp_path / "second.yaml").write_text("base: shared/first.yaml\nseed: 2\nloss: {beta: 2.0}\n")
    (tmp_path / "third.yaml").write_text("base: second.yaml\nrun: here\n")
    config = load_config(tmp_path / "third.yaml")
    assert (config.run, config.epochs, config.seed) == ("here", 7, 2)
    assert (config.loss.alpha, config.loss.beta) == (0.2, 2.0)
    assert load_config(tmp_path / "third.yaml", seed=3).seed == 3


def test_arguments_are_replaced_whole(tmp_path: Path) -> None:
    encoder = "model: {image_encoder: {%sargs: {dim: %d%s}}}\n"
    (tmp_path / "first.yaml").write_text(encoder % ("factory: aoq_ext.encoders.ConvEncoder, ", 3, ", dropout: 0.1"))
    (tmp_path / "second.yaml").write_text("base: first.yaml\n" + encoder % ("", 5, ""))
    chosen = load_config(tmp_path / "second.yaml").model.image_encoder
    assert (chosen.factory, chosen.args) == ("aoq_ext.encoders.ConvEncoder", {"dim": 5})


def test_bases_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    with pytest.raises(ConfigError, match=r"b\.yaml"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(
        ConfigError, match=r"base: expected files that build on one another, got .*a\.yaml as a base of"
    ):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.parent.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_rounds_differ_in_what_they_say(path: Path) -> None:
    """A second round is its first but for where it begins, its length, learning rate, loss and lists; those of the
    papers' data begin anew."""
    config = load_config(path)
    check(config)
    if path.stem.endswith("aoq"):
        first = load_config(path.with_name(path.name.replace("-aoq", "-round1").replace("aoq.yaml", "round1.yaml")))
        assert config.loss.objective == "adaptive_quintuplet" and first.loss.objective == "online_triplet"
        own = {"run", "loss", "offline"} | (
            {"init", "epochs", "warmup_epochs", "optimizer"} if path.parent == CONFIGS else set()
        )
        assert replace(config, **{name: getattr(first, name) for name in own}) == first
