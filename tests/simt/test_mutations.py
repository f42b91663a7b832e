"""The list of bugs that mutate.py plants in the kernels, and tests of rules that such bugs showed to be untested."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import tests.simt.test_backward as backward
import tests.simt.test_forward as forward
import tests.simt.test_score as score
from aoq_ext._options import Similarity
from tests import simt
from tests.losses import make_operands
from tests.simt import mutate
from tests.simt.mutations import MUTATIONS

ROOT = Path(__file__).resolve().parents[2]


def test_list_is_long_and_without_repetition() -> None:
    assert len(MUTATIONS) >= 45
    assert len({(m.file, m.text, m.replacement) for m in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}:{m.name}")
def test_list_still_fits_the_kernels(mutation: mutate.Mutation) -> None:
    assert (ROOT / "csrc" / mutation.file).read_text().count(mutation.text) == 1
    assert mutation.replacement != mutation.text


@pytest.mark.parametrize(
    ("mutation", "tests"),
    [
        ("c - r == diagonal", "test_tiles_find and 32-31-33-float"),
        ("r < kRows && first_row", "test_backward_around_a_tile and 17"),
    ],
    ids=["wrong mask", "lost tail"],
)
def test_mutant_is_caught(mutation: str, tests: str, tmp_path: Path) -> None:
    """The whole way: a copy, a bug, a build, and a test that fails for it but not without it."""
    (found,) = [m for m in MUTATIONS if mutation in m.text]
    simt.load(found.binding)  # once compiled, the copy has it too
    mutate.make_tree(tmp_path)
    assert mutate.run_tests(found.binding, tests, "plain", tmp_path) == ""
    mutate.plant(found, tmp_path)
    assert "test_" in mutate.run_tests(found.binding, tests, "plain", tmp_path)
    mutate.remove(found, tmp_path)
    assert (tmp_path / "csrc" / found.file).read_bytes() == (ROOT / "csrc" / found.file).read_bytes()


def test_tf32_operands_are_rounded_to_the_nearest() -> None:
    """Truncated, the two texts would be equal, and the first of them be taken."""
    image, text = torch.zeros(3, 4), torch.zeros(3, 4)
    image[:, 0] = 1
    text[:, 0] = torch.tensor([0, 1, 1 + 3 * 2**-12])
    row_key, _ = forward.run_tiles([image, text], 32, allow_tf32=True)
    assert forward.unpacked(row_key)[0] == 2


def test_more_tile_rows_than_are_taken_together() -> None:
    operands = forward.exact_operands(520, 521, 8, torch.float16, seed=1)
    row_key, column_key = forward.run_tiles(operands, 32)
    texts, images = forward.truth_keys(operands, 0, None, None)
    np.testing.assert_array_equal(forward.unpacked(row_key), texts)
    np.testing.assert_array_equal(forward.unpacked(column_key), images)


def test_a_walk_takes_the_lowest_of_many_equal_scores() -> None:
    operands = forward.exact_operands(150, 150, 2, torch.float64, seed=3)
    extra = {"chunks": 2, "positive": np.zeros(150)}
    got = forward.run("walk", operands, online="all", objective="online_triplet", extra=extra)
    texts, images = forward.truth_keys(operands, 0, None, None)
    np.testing.assert_array_equal(got["row_keys"][1], texts)
    np.testing.assert_array_equal(got["column_keys"][1], images)


def test_order_similarity_to_nan_is_nan() -> None:
    operands = make_operands(6, 8, dtype=torch.float32, seed=1)
    operands[1][2, 3] = torch.nan
    got = forward.run("forward", operands, similarity="order", objective="online_triplet", reduction="none")
    assert (got["text_index"][[0, 1, 3, 4, 5]] == 2).all()
    assert np.isnan(got["loss"]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_cosine_of_long_rows_of_any_length(dtype: torch.dtype) -> None:
    lengths = torch.linspace(0.5, 3, 9)[:, None]
    operands = [(rows * lengths).to(dtype) for rows in make_operands(9, 600, dtype=torch.float32, seed=2)]
    forward.check_forward(operands, similarity="cosine", reduction="none")


def test_gradients_of_cosine_for_rows_of_any_length() -> None:
    case = backward.Case(7, 40, similarity=Similarity.COSINE)
    for name in (*backward.NAMES, "all_image", "all_text"):
        case.tensors[name] = case.tensors[name] * torch.linspace(0.5, 3, 7)[:, None]
    case.check()
    operands = [rows * torch.linspace(0.5, 3, 20)[:, None] for rows in make_operands(20, 8, dtype=torch.float32)]
    backward.AllCase(20, 8, similarity=Similarity.COSINE, operands=operands).check(panel_elements=100)


def test_gradients_of_order_similarity_to_nan_are_nan() -> None:
    case = backward.Case(3, 4, similarity=Similarity.ORDER)
    case.tensors["saved"][1:8] = 1
    case.tensors["hard_text"][1, 2] = torch.nan
    results = case.kernel()
    assert results["image"][1].isnan().any() and results["hard_text"][1].isnan().any()


@pytest.mark.parametrize("dtype", ["half", "bfloat16"])
def test_gradients_are_rounded_to_the_nearest(dtype: str) -> None:
    case = backward.Case(9, 40, dtype)
    results, truth = case.kernel(), case.truth()
    same = [(results[name] == grad.to(results[name].dtype)).double().mean() for name, grad in truth.items()]
    assert min(same) > 0.95  # sums in float32 may turn a tie


def test_zeros_of_either_sign_tie_and_nan_of_either_sign_is_hardest() -> None:
    scores = torch.eye(4)
    scores[0, 1] = -0.0
    scores[1, 2] = torch.tensor(math.nan).copysign(torch.tensor(-1.0))
    results, expected = score.forward(scores)
    assert results["text_index"].tolist() == expected["text_index"].tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("count", [70, 130])
def test_walk_takes_the_lowest_of_equal_scores(count: int) -> None:
    """Also among the places that one thread looks at."""
    results = forward.run("forward", [torch.ones(count, 4, dtype=torch.float64)] * 6)
    for index in ("text_index", "image_index"):
        assert results[index].tolist() == [1] + [0] * (count - 1)
