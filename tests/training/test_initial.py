"""A run that starts from the weights of another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning_fabric")

from aoq_ext.data import ImageTextData
from aoq_ext.training import Component, ConfigError, DataConfig, ModelConfig, OptimizerConfig, load_config, train
from aoq_ext.training.checkpoint import load_checkpoint
from aoq_ext.training.run import RunFiles
from tests.training.test_resume import Stop, final, same, stop_at
from tests.training.test_toy import load_toy, toy_config, trained


def load_other_words(split: str = "train", root: str | None = None) -> ImageTextData:
    """The toy data with a word that round 1 has not seen in front, which would move every other word's number."""
    data = load_toy(split, root)
    captions = [f"aaa {caption}" if split == "train" else caption for caption in data.captions]
    return ImageTextData(data.images, captions, data.caption_image, data.group_ids, data.image_names, data.name)


@pytest.fixture(scope="module")
def round1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("round1"), epochs=2)


def weights(path: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = load_checkpoint(path)["model"]
    return model


def test_training_starts_from_the_best_weights(tmp_path: Path, round1: Path) -> None:
    """Steps too small to change a number leave the weights they began with."""
    still = OptimizerConfig(lr=1e-30)
    config = toy_config(tmp_path / "run", init=str(round1), epochs=1, seed=5, optimizer=still)
    train(config)
    best, last = weights(RunFiles(round1).best), weights(RunFiles(config.run).last)
    learned = [name for name in best if not any(word in name for word in ("running_", "num_batches"))]
    assert learned and all(torch.equal(best[name], last[name]) for name in learned)
    assert load_config(RunFiles(config.run).config).init == str(round1)


def test_the_vocabulary_is_that_of_the_run(tmp_path: Path, round1: Path) -> None:
    data = DataConfig(loader="tests.training.test_initial.load_other_words")
    fine = toy_config(tmp_path / "fine", init=str(round1), epochs=1, data=data)
    train(fine)
    assert RunFiles(fine.run).vocabulary.read_bytes() == RunFiles(round1).vocabulary.read_bytes()


@pytest.mark.parametrize("kept", ["there", "moved", "gone"])
def test_resuming_needs_no_other_run(tmp_path: Path, round1: Path, kept: str) -> None:
    data = DataConfig(loader="tests.training.test_initial.load_other_words")
    begun = Path(shutil.copytree(round1, tmp_path / "begun"))
    whole = toy_config(tmp_path / "whole", init=str(begun), data=data)
    train(whole)
    parts = toy_config(tmp_path / "parts", init=str(begun), data=data)
    with pytest.raises(Stop):
        train(parts, on_step=stop_at(8))
    if kept == "moved":
        parts.init = str(begun.rename(tmp_path / "elsewhere"))
    elif kept == "gone":
        shutil.rmtree(begun)
    train(parts, resume=True)
    first, second = final(whole), final(parts)
    assert first["inputs"]["initial weights"] not in (None, "none")
    first["config"].pop("init"), second["config"].pop("init")
    assert same(first, second)


def test_resuming_from_other_weights_is_refused(tmp_path: Path, round1: Path) -> None:
    other = trained(tmp_path, epochs=1, seed=1)
    config = toy_config(tmp_path / "run", init=str(round1), epochs=1)
    train(config)
    config.init = str(other)
    with pytest.raises(ConfigError, match=r"the initial weights of the run .* changed .*init was .*, is .*"):
        train(config, resume=True)
    config.init = None
    with pytest.raises(ConfigError, match=r"init: the run to resume was started with '.*round1', got None"):
        train(config, resume=True)
    with pytest.raises(ConfigError, match=r"init: the run to resume was started with None, got '.*round1'"):
        train(toy_config(other, epochs=1, seed=1, init=str(round1)), resume=True)


def with_text(**changes: Any) -> ModelConfig:
    model = toy_config(Path("unused")).model
    return ModelConfig(model.image_encoder, Component(model.text_encoder.factory, model.text_encoder.args | changes))


TOKENIZER = Component("aoq_ext.data.read_vocabulary")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": with_text(hidden=8)}, "init: expected a run whose weights fit the model entries, got .*shape"),
        (
            {"model": ModelConfig(Component("other.Encoder"))},
            "init: expected model.image_encoder as in .*round1, 'aoq_ext.encoders.ConvEncoder', got 'other.Encoder'",
        ),
        (
            {
                "data": DataConfig(
                    "tests.training.test_toy.load_toy", tokenizer=Component("aoq_ext.data.read_vocabulary")
                )
            },
            "init: expected data.tokenizer as in .*round1, None, got Component",
        ),
        ({"init": "nowhere"}, r"init: expected the folder of a training run, but nowhere/config.yaml is missing"),
        ({"init": " "}, "init: expected the folder of a run or null, got ' '"),
    ],
    ids=["weights", "encoder", "tokenizer", "missing", "blank"],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, round1: Path, changes: dict[str, Any], message: str) -> None:
    config = toy_config(tmp_path / "run", **{"init": str(round1), **changes})
    with pytest.raises(ConfigError, match=message):
        train(config)
    assert not RunFiles(config.run).last.exists()


def test_weights_that_are_missing_or_broken_are_refused(tmp_path: Path, round1: Path) -> None:
    begun = Path(shutil.copytree(round1, tmp_path / "begun"))
    best = RunFiles(begun).best
    best.write_bytes(best.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"init: .*best.ckpt cannot be read as a checkpoint"):
        train(toy_config(tmp_path / "run", init=str(begun)))
    best.unlink()
    with pytest.raises(ConfigError, match=r"init: expected the folder of a training run, but .*best.ckpt is missing"):
        train(toy_config(tmp_path / "run", init=str(begun)))
