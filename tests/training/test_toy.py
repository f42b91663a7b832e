"""A data set small enough to train on in a second, and runs on it, for the other training tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aoq_ext.data import ImageTextData

pytest.importorskip("lightning_fabric")

from aoq_ext.training import (
    Component,
    DataConfig,
    LossConfig,
    ModelConfig,
    OfflineConfig,
    OptimizerConfig,
    TrainConfig,
    load_run,
    mine_run,
    train,
)

CONCEPTS, STYLES, CAPTIONS = 20, 2, 2


def load_toy(split: str = "train", root: str | Path | None = None) -> ImageTextData:
    """Each concept is a pattern of its own, in two noisy styles; the evaluation split has other noise and one style."""
    if split not in ("train", "val"):
        raise ValueError(f"split: expected train or val, got {split!r}")
    patterns = np.random.default_rng(0).integers(0, 200, (CONCEPTS, 3, 8, 8))
    noise = np.random.default_rng(1 if split == "train" else 2)
    styles = STYLES if split == "train" else 1
    concepts = np.repeat(np.arange(CONCEPTS), styles)
    images = patterns[concepts] + noise.integers(0, 40, (len(concepts), 3, 8, 8))
    return ImageTextData(
        images=images.astype(np.uint8),
        captions=[f"{opening} thing{concept}" for concept in concepts for opening in ("a", "the")],
        caption_image=np.repeat(np.arange(len(concepts)), CAPTIONS).astype(np.int64),
        group_ids=concepts.astype(np.int64),
        image_names=[f"thing{concept}" for concept in concepts],
        name=f"toy/{split}",
    )


def toy_config(run: Path, **changes: Any) -> TrainConfig:
    """Five steps an epoch; dropout, so that a resumed run must also draw the same."""
    defaults: dict[str, Any] = {
        "run": str(run),
        "epochs": 3,
        "batch_size": 8,
        "warmup_epochs": 1,
        "log_every": 2,
        "checkpoint_every": 3,
        "accelerator": "cpu",
        "threads": 1,
        "data": DataConfig(loader="tests.training.test_toy.load_toy", smoothing=5),
        "model": ModelConfig(
            Component(
                "aoq_ext.encoders.ConvEncoder",
                {"dim": 16, "channels": [8, 8], "image_size": 8, "dropout": 0.2, "geometry": 0.1, "colour": 0.1},
            ),
            Component("aoq_ext.encoders.GRUEncoder", {"dim": 16, "word_dim": 16, "hidden": 16, "word_dropout": 0.1}),
        ),
        "optimizer": OptimizerConfig(lr=3e-3),
    }
    return TrainConfig(**{**defaults, **changes})


def adaptive(lists: Path) -> dict[str, Any]:
    """The changes that make a toy run use offline negatives."""
    return {
        "loss": LossConfig(objective="adaptive_quintuplet"),
        "offline": OfflineConfig(lists=str(lists), top_texts=20, top_images=10),
    }


def trained(folder: Path, **changes: Any) -> Path:
    return train(toy_config(folder / "round1", **changes))


def mined(run: Path, folder: Path) -> Path:
    return mine_run(load_run(run), k_text=30, k_image=15).save(folder / "lists")


def test_toy_data_has_pairs_of_one_group() -> None:
    data = load_toy()
    assert len(data.images) == CONCEPTS * STYLES
    assert len(set(data.group_ids.tolist())) == CONCEPTS


def test_toy_is_learned(tmp_path: Path) -> None:
    run = trained(tmp_path, epochs=20, warmup_epochs=10)
    from aoq_ext.training import evaluate_run

    assert evaluate_run(run, "val")["rsum"] > 400  # chance is about 150
