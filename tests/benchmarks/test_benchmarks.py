"""What the benchmarks compute; never how long it takes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning_fabric")

from aoq_ext.training import DataConfig, LossConfig
from tests.training.test_scores import MODELS, load_regions
from tests.training.test_toy import load_toy, toy_config

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import bench_cross_attention
from bench_step import FORMS, PARTS, Delayed, Laps, Steps, Uncached, random_data, random_lists, reading_table


@pytest.mark.parametrize("model", ["vsepp", "vsrn"])
def test_the_parts_of_a_step_are_the_step(model: str, tmp_path: Path) -> None:
    config = toy_config(
        tmp_path,
        model=MODELS[model],
        data=DataConfig(loader="tests.training.test_scores.load_regions"),
        loss=LossConfig(objective="adaptive_quintuplet"),
    )
    gradients = {}
    for loss in ("fused", "eager"):
        for way, parts in (("whole", {"whole"}), ("in_parts", set(PARTS))):
            steps, laps = Steps(config, load_regions()), Laps()
            getattr(steps, way)(steps.batch(1), loss, laps)
            assert laps.seconds.keys() == parts
            gradients[loss, way] = [parameter.grad for parameter in steps.model.parameters()]
    expected = gradients["fused", "whole"]
    assert all(gradient is not None for gradient in expected)
    assert torch.cat([gradient.flatten() for gradient in expected]).count_nonzero() > 1000
    for got in gradients.values():
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_waiting_is_measured(tmp_path: Path) -> None:
    config = toy_config(tmp_path, batch_size=4, loss=LossConfig(objective="offline_triplet"))
    data = load_toy()
    steps = Steps(config, replace(data, images=Delayed(data.images, 0.01)))  # type: ignore[arg-type]
    rows = [line.split(" | ") for line in reading_table("slow", steps, count=3, rounds=1)[4:-1]]
    assert [row[0].strip("| ") for row in rows] == list(FORMS)
    assert float(rows[0][3]) < 1  # milliseconds, of 8 rows
    assert float(rows[1][3]) > 79


def test_rows_that_are_not_in_the_cache_are_the_same(tmp_path: Path) -> None:
    data = random_data(4, tmp_path)
    images = Uncached(tmp_path / "ims.npy")
    for _ in range(2):
        np.testing.assert_array_equal(images[[3, 0]], data.images[[3, 0]])


def test_cross_attention_is_measured_against_the_loop() -> None:
    """`measure` compares the two forms' scores and gradients itself."""
    problem = bench_cross_attention.Problem(items=3, regions=4, words=5, width=8)
    results = bench_cross_attention.measure(problem, rounds=2)
    assert all(len(result.wall) == len(result.processor) == 2 for result in results.values())
    loop, ours = results.values()
    loop.wall, ours.wall = [3.0, 8.0, 4.0], [0.5, 2.0, 1.0]
    rows = bench_cross_attention.table(problem, results).splitlines()[-2:]
    assert rows[0].startswith("| loop over captions | 3.000 | 4.000 |") and rows[0].endswith("| 1.0 | 1.0 |")
    assert rows[1].startswith("| aoq_ext | 0.500 | 1.000 |") and rows[1].endswith("| 6.0 | 4.0 |")


def test_random_negatives_are_of_other_images(tmp_path: Path) -> None:
    data = random_data(8, tmp_path)
    caption = torch.arange(len(data.captions))
    image = torch.from_numpy(data.caption_image)
    draw = random_lists(data, 20, 5).draw(image, caption, step=0)
    assert (draw.hard_image != image).all()
    assert (image[draw.hard_text] != image).all()
