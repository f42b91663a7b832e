"""Tokens by the configuration: a vocabulary in a file, or a tokenizer of one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning_fabric")

from torch import Tensor

from aoq_ext.data import Tokenizer, Vocabulary
from aoq_ext.training import Component, ConfigError, DataConfig, TrainConfig, evaluate_run, load_config, load_run, train
from aoq_ext.training.checkpoint import load_checkpoint, save_checkpoint
from aoq_ext.training.config import check
from aoq_ext.training.run import RunFiles
from aoq_ext.training.tokens import encode_captions
from tests.training.test_resume import Stop, final, same, stop_at
from tests.training.test_toy import load_toy, toy_config


class Letters:
    """A number for each letter."""

    def __init__(self, first: int = 1) -> None:
        self.first = first

    def __len__(self) -> int:
        return 256 + self.first

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(list(caption.encode())) + self.first for caption in captions]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


class Returns:
    def __init__(self, value: object) -> None:
        self.value = value

    def __len__(self) -> int:
        return 9

    def encode(self, captions: Sequence[str]) -> object:
        return self.value


def with_tokenizer(run: Path, factory: str, args: dict[str, Any] | None = None) -> TrainConfig:
    config = toy_config(run, epochs=1)
    config.data.tokenizer = Component(factory, args or {})
    return config


def letters(run: Path, first: int = 1) -> TrainConfig:
    return with_tokenizer(run, "tests.training.test_tokens.Letters", {"first": first})


def released(run: Path, path: Path) -> TrainConfig:
    return with_tokenizer(run, "aoq_ext.data.read_vocabulary", {"path": str(path)})


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """The toy's words as the releases have them, and a few others."""
    own = Vocabulary.build(load_toy("train").captions).words
    path = tmp_path / "toy_vocab.json"
    path.write_text(json.dumps({"word2idx": {word: number for number, word in enumerate([*own, "zebra", "yak"])}}))
    return path


def test_a_released_vocabulary(tmp_path: Path, words: Path) -> None:
    run = train(released(tmp_path / "run", words))
    words.unlink()  # the run has a copy
    loaded = load_run(run)
    assert isinstance(loaded.vocabulary, Vocabulary) and loaded.vocabulary.words[-2:] == ["zebra", "yak"]
    assert loaded.model.matching.text_encoder.words.num_embeddings == len(loaded.vocabulary)  # type: ignore[union-attr]
    assert evaluate_run(loaded, "val")["rsum"] > 0
    assert loaded.embed_texts(["a zebra"]).shape[0] == 1


def test_a_tokenizer_is_built_again_from_the_configuration(tmp_path: Path) -> None:
    run = train(letters(tmp_path / "run"))
    assert not RunFiles(run).vocabulary.exists()
    assert load_config(RunFiles(run).config).data.tokenizer == Component(
        "tests.training.test_tokens.Letters", {"first": 1}
    )
    loaded = load_run(run)
    assert isinstance(loaded.vocabulary, Letters) and len(loaded.vocabulary) == 257
    assert evaluate_run(loaded, "val")["rsum"] > 0


def test_what_a_killed_run_left_is_not_taken_for_the_tokens(tmp_path: Path) -> None:
    Vocabulary(["left"]).save(RunFiles(tmp_path / "run").vocabulary)
    assert isinstance(load_run(train(letters(tmp_path / "run"))).vocabulary, Letters)


def test_a_run_without_its_vocabulary_is_refused(tmp_path: Path) -> None:
    run = train(toy_config(tmp_path / "run", epochs=1))
    RunFiles(run).vocabulary.unlink()
    with pytest.raises(ConfigError, match=r"run: expected .* but .*vocabulary.json is missing"):
        load_run(run)


def test_resuming_with_a_tokenizer(tmp_path: Path) -> None:
    train(letters(tmp_path / "whole"))
    parts = letters(tmp_path / "parts")
    with pytest.raises(Stop):
        train(parts, on_step=stop_at(2))
    train(parts, resume=True)
    assert same(final(letters(tmp_path / "whole")), final(parts))


def test_resuming_refuses_other_tokens(tmp_path: Path, words: Path) -> None:
    config = released(tmp_path / "run", words)
    train(config)
    numbers = json.loads(words.read_text())["word2idx"]
    first, second = list(numbers)[4:6]
    numbers[first], numbers[second] = numbers[second], numbers[first]
    words.write_text(json.dumps(numbers))
    with pytest.raises(ConfigError, match="run: the tokens of the run to resume changed since it was started"):
        train(config, resume=True)
    with pytest.raises(ConfigError, match=r"data.tokenizer.args.first: the run to resume was started with None"):
        train(letters(tmp_path / "run"), resume=True)


def test_checkpoints_from_before_there_were_tokenizers_resume(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", epochs=1)
    train(config)
    files = RunFiles(config.run)
    state = load_checkpoint(files.last)
    del state["format"], state["inputs"]["tokens"], state["config"]["data"]["tokenizer"]
    save_checkpoint(files.last, state)
    train(config, resume=True)
    assert "tokens" not in load_checkpoint(files.last)["inputs"]  # nothing was left to do


@pytest.mark.parametrize(
    ("factory", "args", "message"),
    [
        ("nowhere.Tokens", {}, r"data.tokenizer.factory: cannot import 'nowhere.Tokens': .*installed.*in the folder"),
        (
            "tests.training.test_tokens.Letters",
            {"last": 1},
            r"data.tokenizer.args: expected the arguments of .*Letters",
        ),
        ("builtins.object", {}, r"data.tokenizer.factory: expected an object with encode\(captions\) and len\(\), got"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, factory: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(with_tokenizer(tmp_path / "run", factory, args))


TOKENS, LENGTHS = torch.ones(2, 3).long(), torch.tensor([1, 3])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (TOKENS[0, 0], "tokens and lengths, got Tensor"),
        (([[1], [2]], LENGTHS), r"tokens \(M, L\) as a tensor of int64, got list"),
        ((TOKENS.float(), LENGTHS), r"tokens \(M, L\) as a tensor of int64, got torch.float32 of shape \(2, 3\)"),
        ((TOKENS[:1], LENGTHS), r"tokens \(M, L\) of 2 captions, got 1 rows"),
        ((TOKENS, LENGTHS[:, None]), r"lengths \(M,\) as a tensor of int64, got torch.int64 of shape \(2, 1\)"),
        ((TOKENS, LENGTHS - 1), "lengths from 1 to 3, got 0 to 2"),
        ((TOKENS, LENGTHS + 1), "lengths from 1 to 3, got 2 to 4"),
        ((TOKENS * 9, LENGTHS), "tokens from 0 to 8, got 9 to 9"),
        ((TOKENS * -1, LENGTHS), "tokens from 0 to 8, got -1 to -1"),
    ],
)
def test_what_encode_returns_is_checked(returned: object, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"data.tokenizer: expected encode\(captions\) to return {message}"):
        encode_captions(Returns(returned), ["a", "b"])  # type: ignore[arg-type]


def test_min_count_is_refused_with_a_tokenizer() -> None:
    data = DataConfig(tokenizer=Component("tests.training.test_tokens.Letters"), min_count=4)
    with pytest.raises(ConfigError, match=r"data.min_count: expected 1 with data.tokenizer, .* got 4"):
        check(TrainConfig(data=data))


def test_a_vocabulary_is_a_tokenizer() -> None:
    assert isinstance(Vocabulary(["a"]), Tokenizer) and not isinstance(object(), Tokenizer)
