"""What a run writes and measures."""

from __future__ import annotations

import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning_fabric")

from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aoq_ext.metrics import retrieval_metrics
from aoq_ext.parallel import ALONE
from aoq_ext.training import ConfigError, History, LossConfig, OfflineConfig, TrainConfig, evaluate_run, load_run, train
from aoq_ext.training.checkpoint import CheckpointError
from aoq_ext.training.config import DataConfig
from aoq_ext.training.diagnostics import BatchSimilarities, measure
from aoq_ext.training.journal import Journal
from aoq_ext.training.run import RunFiles
from tests.training.test_toy import adaptive, load_toy, mined, toy_config, trained


@pytest.fixture(scope="module")
def round1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    run = trained(folder, epochs=4, warmup_epochs=2)
    mined(run, folder)
    return run


def test_the_folder_holds_what_it_should(round1: Path) -> None:
    files = RunFiles(round1)
    for path in (files.config, files.vocabulary, files.history, files.last, files.best):
        assert path.is_file(), path
    history = History.load(files.history)
    assert [entry["epoch"] for entry in history.epochs] == [1, 2, 3, 4]
    assert [entry["online"] for entry in history.epochs] == ["all", "all", "hardest", "hardest"]
    assert [entry["step"] for entry in history.steps] == list(range(2, 21, 2))
    assert load_run(round1).epoch == history.best_epoch()


def test_the_best_epoch_is_judged_over_several() -> None:
    rsums = [10.0, 90.0, 20.0, 60.0, 70.0, 50.0]
    epochs = [{"epoch": at, "validation": {"rsum": rsum}} for at, rsum in enumerate(rsums, 1)]
    assert History(epochs=epochs).best_epoch() == 2
    assert History(epochs=epochs, smoothing=3).best_epoch() == 6  # 60 on average, from 10, 50, 40, 56.7, 50
    assert History(epochs=[{"epoch": 1}, {"epoch": 2}]).best_epoch() == 2


@pytest.mark.parametrize("objective", ["offline_triplet", "offline_quintuplet", "adaptive_quintuplet"])
@pytest.mark.parametrize("options", [{}, {"clamp_weight": True, "alpha": 0.05}, {"detach_weight": True}], ids=str)
def test_measured_terms_add_up_to_the_loss(
    tmp_path: Path, round1: Path, objective: str, options: dict[str, float]
) -> None:
    loss = LossConfig(objective=objective, margin_offline=0.3, **options)  # type: ignore[arg-type]
    offline = OfflineConfig(lists=str(round1.parent / "lists"))
    run = train(toy_config(tmp_path / "run", epochs=2, log_every=1, loss=loss, offline=offline))
    steps = History.load(RunFiles(run).history).steps
    assert len(steps) == 10
    for entry in steps:  # in the warm-up as well as after it
        terms = sum(value for name, value in entry.items() if name.startswith("loss/"))
        assert terms == pytest.approx(entry["loss"], rel=1e-4)
    assert {f"loss/offline_{name}" for name in ("a", "b")} <= steps[-1].keys()
    assert ("loss/offline_c" in steps[-1]) == (objective != "offline_triplet")


def test_similarities_are_those_of_the_pairs(tmp_path: Path, round1: Path) -> None:
    run = train(toy_config(tmp_path / "run", **adaptive(round1.parent / "lists")))
    entry = History.load(RunFiles(run).history).steps[-1]
    for name in ("positive", "online_text", "online_image", "offline_a", "offline_b", "offline_c", "offline_d"):
        assert -1 <= entry[f"similarity/{name}"] <= 1
    assert 0 <= entry["active"] <= 1
    assert entry["gap"] == pytest.approx(entry["similarity/offline_a"] - entry["similarity/online_text"], abs=1e-5)
    assert 0 <= entry["harder"] <= 1


def test_harder_counts_both_sides_where_the_batch_has_a_negative() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.9, 0.4], [0.5, 0.6, 0.9]])
    a, b = torch.tensor([0.3, 0.3, 0.6]), torch.tensor([0.6, 0.7, 0.8])  # n: 0.2 0.4 0.6, m: 0.5 0.6 0.4
    for groups, share in (([0, 1, 2], 4 / 6), ([0, 0, 1], 4 / 6), ([0, 0, 0], None)):
        pairs = BatchSimilarities(scores, torch.tensor(groups), (a, b))
        measured = measure(pairs, LossConfig(), "offline_triplet", "hardest").get("harder")
        assert measured == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize("shares", [[0.5, 0.6], [0.6, 0.7]], ids=["easy", "hard"])
def test_easy_negatives_are_told_once(tmp_path: Path, shares: list[float]) -> None:
    config = toy_config(tmp_path)
    journal = Journal(config, RunFiles(tmp_path), Console(quiet=True), leads=True)
    journal.open(0, 9)
    journal.epoch({"epoch": 1, "step": 2, "objective": "online_triplet", "online": "all", "loss": 1.0, "seconds": 0.0})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in (2, 3):
            for share in shares:
                journal.step(epoch, epoch - 1, 1.0, 0.1, {"harder": share}, 8)
            record = {"epoch": epoch, "step": 4, "objective": "offline_triplet", "online": "hardest", "loss": 1.0}
            journal.epoch({**record, "seconds": 0.0})
    found = [str(entry.message) for entry in caught]
    expected = r"only 55.0% .* in epoch 2 .* expected 60% .* offline.top_texts / top_images, now 300 / 60"
    assert len(found) == (1 if shares[0] < 0.6 else 0)
    assert all(re.match(expected, message) for message in found)


def test_tensorboard_has_every_measurement(round1: Path) -> None:
    events = EventAccumulator(str(RunFiles(round1).tensorboard)).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss/total", "loss/online_text", "similarity/positive", "active", "lr", "validation/rsum"} <= tags
    history = History.load(RunFiles(round1).history)
    assert [event.step for event in events.Scalars("loss/total")] == [entry["step"] for entry in history.steps]
    assert [event.value for event in events.Scalars("validation/rsum")] == pytest.approx(
        [entry["validation"]["rsum"] for entry in history.epochs]
    )


def test_the_warm_up_is_the_same_for_every_objective(tmp_path: Path, round1: Path) -> None:
    run = train(toy_config(tmp_path / "run", epochs=4, warmup_epochs=2, **adaptive(round1.parent / "lists")))
    first, second = (History.load(RunFiles(folder).history).epochs for folder in (round1, run))
    assert [entry["loss"] for entry in first[:2]] == [entry["loss"] for entry in second[:2]]
    assert first[2]["loss"] != second[2]["loss"]


def test_a_loaded_run_embeds_as_it_was_evaluated(round1: Path) -> None:
    data = load_toy("val")
    loaded = load_run(round1)
    images, texts = loaded.embed_images(data.images, batch_size=7), loaded.embed_texts(data.captions, batch_size=9)
    assert images.dtype == texts.dtype == torch.float32
    expected = History.load(RunFiles(round1).history).epochs[loaded.epoch - 1]["validation"]
    assert retrieval_metrics(images, texts, torch.from_numpy(data.caption_image)) == pytest.approx(expected)
    torch.testing.assert_close(images, loaded.embed_images(data.images))
    assert not loaded.model.training
    assert load_run(round1, "last").epoch == 4


def test_vectors_of_many_batches_are_exchanged_together(round1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchanged: list[torch.Tensor] = []
    monkeypatch.setattr(type(ALONE), "gather", lambda self, rows, sizes=None: exchanged.append(rows) or rows)
    assert len(load_run(round1).embed_images(load_toy("val").images, batch_size=1)) == 20
    assert len(exchanged) == 2  # vectors, and of how many fragments each image is


def test_a_loaded_run_embeds_nothing(round1: Path) -> None:
    loaded = load_run(round1)
    width = loaded.embed_texts(["a thing"]).shape[1]
    for embedded in (loaded.embed_texts([]), loaded.embed_images(load_toy("val").images[:0])):
        assert embedded.shape == (0, width) and embedded.dtype == torch.float32


@pytest.mark.parametrize("captions", ["dog", b"dog", ["dog", b"cat"], [3]])
def test_one_string_is_no_list_of_captions(round1: Path, captions: Any) -> None:
    with pytest.raises(TypeError, match="captions: expected"):
        load_run(round1).embed_texts(captions)


def test_evaluation_is_noted_for_each_split(tmp_path: Path) -> None:
    run = trained(tmp_path, epochs=1)
    result = evaluate_run(run, "val")
    evaluate_run(run, "train")
    known = json.loads(RunFiles(run).metrics.read_text())
    assert known.keys() == {"val", "train"}
    assert known["val"] == result
    assert (result["images"], result["captions"]) == (20, 40)


def test_damaged_metrics_are_named_before_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, epochs=1)
    monkeypatch.setattr("aoq_ext.training.evaluation.evaluate", None)
    for text, message in (('{"val": {', "is not valid JSON"), ("[]", "got a list")):
        RunFiles(run).metrics.write_text(text)
        with pytest.raises(ConfigError, match=rf"metrics.json.*{message}.*; delete it and evaluate again"):
            evaluate_run(run, "val")


def test_without_validation_the_last_weights_are_the_best(tmp_path: Path) -> None:
    data = DataConfig(loader="tests.training.test_toy.load_toy", validation_split=None)
    run = trained(tmp_path, data=data)
    best, last = load_run(run, "best"), load_run(run, "last")
    assert best.epoch == last.epoch == 3
    assert all(torch.equal(a, b) for a, b in zip(best.model.state_dict().values(), last.model.state_dict().values()))


def test_the_groups_of_a_batch_are_never_negatives(tmp_path: Path) -> None:
    """Only one image is of a group of its own: only the one batch of an epoch that holds it has any negatives."""
    data = DataConfig(loader="tests.training.test_loop.load_one_apart")
    config = toy_config(tmp_path / "run", data=data, epochs=2, log_every=1)
    train(config)
    steps = History.load(RunFiles(config.run).history).steps
    without = [entry for entry in steps if "distance" not in entry]
    assert (len(steps), len(without)) == (10, 8)
    assert all(entry["loss"] == 0 for entry in without)


def load_one_apart(split: str) -> object:
    from dataclasses import replace

    data = load_toy(split)
    return replace(data, group_ids=(np.arange(len(data)) == 0).astype(np.int64))


def test_one_line_an_epoch_when_nobody_watches(tmp_path: Path) -> None:
    text = io.StringIO()
    train(toy_config(tmp_path / "run"), console=Console(file=text))
    lines = text.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch   1/3  loss")
    assert "(warm-up)" in lines[0]
    assert "rsum" in lines[2]


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    text = io.StringIO()
    loss, offline = LossConfig(objective="offline_triplet"), OfflineConfig(remine_every=5)
    config = toy_config(tmp_path / "run", loss=loss, offline=offline)
    train(config, console=Console(file=text, force_terminal=True, width=100))
    assert "15/15" in text.getvalue()
    assert "mined with the weights of epoch 1 in " in text.getvalue()


def test_weights_of_other_encoders_are_refused(tmp_path: Path) -> None:
    run = trained(tmp_path, epochs=1)
    path = RunFiles(run).config
    path.write_text(path.read_text().replace("dim: 16", "dim: 8"))
    with pytest.raises(CheckpointError, match=r"best.ckpt: the weights do not fit the encoders of the configuration"):
        load_run(run)


def test_the_callers_configuration_is_not_changed(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", epochs=1)
    train(config)
    assert config == toy_config(tmp_path / "run", epochs=1)
    assert isinstance(load_run(config.run).config, TrainConfig)
    assert load_run(config.run).config == config


def test_the_best_epoch_is_never_one_of_the_warm_up() -> None:
    def epoch(online: str, rsum: float) -> dict[str, object]:
        return {"online": online, "validation": {"rsum": rsum}}

    history = History(epochs=[epoch("all", 9.0), epoch("all", 8.0)])
    assert history.best_epoch() == 1
    history.epochs += [epoch("hardest", 5.0), epoch("hardest", 6.0), epoch("hardest", 6.0)]
    assert history.best_epoch() == 4
