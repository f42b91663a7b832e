"""The collapse detector speaks when a model has collapsed, and only then."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("lightning_fabric")

from torch import Tensor, nn

from aoq_ext.training import (
    CollapseError,
    Component,
    ConfigError,
    DataConfig,
    ModelConfig,
    OfflineConfig,
    OptimizerConfig,
    TrainConfig,
    train,
)
from aoq_ext.training.collapse import CollapseDetector
from aoq_ext.training.config import LossConfig
from aoq_ext.training.diagnostics import BatchSimilarities, measure
from aoq_ext.training.history import History
from aoq_ext.training.journal import Journal
from aoq_ext.training.run import RunFiles
from tests.training.test_toy import mined, toy_config, trained


class ConstantImages(nn.Module):
    """Everything in nearly one place: what a collapsed encoder returns."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.ones(16))

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.place + 1e-3 * images.flatten(1)[:, :16], dim=1)


class ConstantTexts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.ones(16))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return F.normalize(self.place.expand(len(tokens), -1), dim=1)


COLLAPSED = ModelConfig(
    Component("tests.training.test_collapse.ConstantImages"), Component("tests.training.test_collapse.ConstantTexts")
)


def test_a_collapsed_run_stops_and_says_why(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", model=COLLAPSED, warmup_epochs=0, collapse_patience=3)
    with pytest.raises(CollapseError, match=r"collapsed at step 6: .*= 3.2. Cause: .* Cure: .*warmup_epochs, now 0"):
        train(config)
    steps = History.load(RunFiles(config.run).history).steps
    assert [entry["step"] for entry in steps] == [2, 4, 6]
    assert steps[-1]["loss"] == pytest.approx(0.4, rel=0.02)  # the plateau, per pair


def test_a_collapsed_run_warns_once_where_asked_to(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", model=COLLAPSED, warmup_epochs=0, collapse_patience=3, on_collapse="warn")
    with pytest.warns(UserWarning, match="training has collapsed at step 6") as caught:
        train(config)
    assert len([entry for entry in caught if "collapsed" in str(entry.message)]) == 1


def test_a_healthy_run_is_left_alone(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", epochs=10, collapse_patience=2, on_collapse="stop")
    assert len(History.load(RunFiles(train(config)).history).epochs) == 10


def test_waiting_near_the_plateau_is_not_a_collapse() -> None:
    """Half of the pairs far above their negatives and half far below: the loss of the plateau, but not its reason."""
    signs = torch.tensor([1.0, -1.0] * 8)
    image = F.normalize(torch.randn(16, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    text = image * signs[:, None]
    detector = CollapseDetector(margin_online=0.2, patience=1)
    measurement = measure(
        BatchSimilarities(image @ text.T, torch.arange(16)), LossConfig(), "online_triplet", "hardest"
    )
    assert measurement["distance"] > 0.2
    assert not detector.update(measurement)


def test_patience_counts_measurements_in_a_row() -> None:
    detector = CollapseDetector(margin_online=0.2, patience=3)
    near, far = {"distance": 0.001}, {"distance": 0.1}
    assert [detector.update(entry) for entry in (near, near, far, near, near, near, near)] == [
        False, False, False, False, False, True, False,
    ]  # fmt: skip
    assert not detector.update({})  # a batch of one group has no negatives


HEAVY = {"distance": 0.001, "weight": 1.7, "gap": -0.06, "similarity/positive": 0.9, "similarity/online_text": 0.9}


@pytest.mark.parametrize(
    ("beta", "first", "named"),
    [
        (1.5, {}, True),
        (None, {}, False),  # weights that pass no gradient, or another objective
        (1.5, {"weight": 1.5}, False),  # not all the while
        (1.8, {}, False),
    ],
)
def test_adaptive_weights_are_named_where_they_are_the_cause(
    beta: float | None, first: dict[str, float], named: bool
) -> None:
    detector = CollapseDetector(margin_online=0.2, patience=2, beta=beta)
    assert [detector.update(entry) for entry in (HEAVY | first, HEAVY)] == [False, True]
    message = detector.explain(4, HEAVY, batch_size=8, warmup_epochs=1, lr=0.1)
    weights = r"Cause: the adaptive weights, on average 1.700 now, above loss.beta = 1.5, .* \(a - n is -0.060\)"
    cure = r".*Cure: loss.detach_weight true, or .*\(init\), or, .*\(warmup_epochs, now 1\)$"
    assert bool(re.search(weights + cure, message)) == named
    assert ("Cause: hardest negatives push a model" in message) == (not named)


@pytest.mark.parametrize("objective", ["online_triplet", "offline_quintuplet", "adaptive_quintuplet"])
@pytest.mark.parametrize("detach", [False, True])
def test_a_run_watches_weights_that_pass_gradients(tmp_path: Path, objective: Any, detach: bool) -> None:
    config = toy_config(tmp_path, loss=LossConfig(objective=objective, beta=1.2, detach_weight=detach))
    journal = Journal(config, RunFiles(tmp_path), None, leads=False)
    assert journal.detector.beta == (1.2 if objective == "adaptive_quintuplet" and not detach else None)
    journal.detector.heavy = 3
    restored = Journal(config, RunFiles(tmp_path), None, leads=False)
    restored.restore(journal.state())
    assert restored.detector.heavy == 3


def test_attached_weights_collapse_from_random_weights_where_detached_do_not(tmp_path: Path) -> None:
    """No warm-up, the same seed and draws. (Of seeds 0 to 3, 0 gets away with it.)"""
    lists = mined(trained(tmp_path, epochs=10, warmup_epochs=5), tmp_path)

    def config(name: str, **loss: bool) -> TrainConfig:
        return toy_config(
            tmp_path / name,
            seed=1,
            batch_size=16,
            epochs=40,
            warmup_epochs=0,
            checkpoint_every=100,
            log_every=1,
            data=DataConfig(loader="tests.training.test_toy.load_toy", validation_split=None),
            loss=LossConfig(objective="adaptive_quintuplet", **loss),
            offline=OfflineConfig(lists=str(lists), top_texts=4, top_images=4),
            optimizer=OptimizerConfig(lr=1e-2, schedule="constant"),
        )

    with pytest.raises(CollapseError, match=r"Cause: the adaptive weights, on average 1.5\d\d now"):
        train(config("attached"))
    steps = History.load(RunFiles(train(config("detached", detach_weight=True))).history).steps
    assert steps[-1]["distance"] > 0.1  # with attached weights 0.002 at this step


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    from aoq_ext.training import OptimizerConfig, TrainingError
    from aoq_ext.training.checkpoint import load_checkpoint

    config = toy_config(tmp_path / "run", optimizer=OptimizerConfig(lr=1e30), checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"the loss is nan at step \d+") as caught:
        train(config)
    last = RunFiles(config.run).last
    assert (f"the last finite state is in {last}" in str(caught.value)) == last.exists()
    if last.exists():
        assert all(value.isfinite().all() for value in load_checkpoint(last)["model"].values())


@pytest.mark.parametrize("lr", [1e30, 1e38])
def test_divergence_between_measurements_is_no_success(tmp_path: Path, lr: float) -> None:
    from aoq_ext.training import OptimizerConfig, TrainingError

    config = toy_config(tmp_path / "run", optimizer=OptimizerConfig(lr=lr), epochs=1, log_every=99, checkpoint_every=99)
    with pytest.raises(TrainingError, match=r"the mean loss of epoch 1 is nan\. Lower optimizer.lr"):
        train(config)
    assert not RunFiles(config.run).best.exists()


def test_a_last_update_that_destroys_the_weights_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aoq_ext.training import TrainingError
    from aoq_ext.training.trainer import Trainer

    monkeypatch.setattr(Trainer, "_has_finite_weights", lambda trainer: trainer.step < 5)
    config = toy_config(tmp_path / "run", epochs=1)
    with pytest.raises(TrainingError, match=r"not finite after step 5; the last finite state is in .*last.ckpt"):
        train(config)
    assert not RunFiles(config.run).best.exists()


def test_collapse_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="collapse_patience: expected a positive number, got 0"):
        train(toy_config(tmp_path / "run", collapse_patience=0))
