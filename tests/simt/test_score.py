"""The CUDA kernels of a given score matrix, run by the emulator, against the CPU operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import aoq_ext  # noqa: F401  (registers the operators)
from aoq_ext._options import LossOptions, Objective, Online, Reduction
from tests import simt
from tests.numerics import error

ELEMENTS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
OFFLINE = ("hard_text_scores", "hard_image_scores", "hard_pair_scores", "partner_pair_scores")
ROUNDING = 2e-6  # of float32 sums in another order
SIZES = (1, 2, 63, 64, 65, 130)


def to_numpy(tensor: Tensor | None) -> Any:
    """Halves as the 16-bit words that the emulator takes."""
    if tensor is None:
        return None
    return (tensor.view(torch.int16) if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy()


def from_numpy(array: Any, dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.to(torch.int32).to(torch.int16).view(dtype) if array.dtype == "uint16" else tensor


def run(name: str, scores: Tensor, seed: int = 0, **arguments: Any) -> dict[str, Tensor]:
    tensors = {key: to_numpy(value) for key, value in arguments.items() if isinstance(value, Tensor)}
    others = {key: value for key, value in arguments.items() if not isinstance(value, Tensor)}
    results = simt.load("score").run(
        name, seed=seed, element=ELEMENTS[scores.dtype], scores=to_numpy(scores), **tensors, **others
    )
    return {key: from_numpy(array, scores.dtype) for key, array in results.items()}


def make_scores(count: int, columns: int = 0, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Few distinct values, so that ties abound."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-9, 10, (count, columns or count), generator=generator) / 16
    return (scores + 0.3 * torch.eye(*scores.shape)).to(dtype)


def forward(
    scores: Tensor,
    online: Online = Online.HARDEST,
    objective: Objective = Objective.ADAPTIVE_QUINTUPLET,
    reduction: Reduction = Reduction.SUM,
    group_ids: Tensor | None = None,
    margin: float = 0.2,
    seed: int = 0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the kernels return, and what the CPU operator does."""
    used = (0, 2, 4, 4)[objective]
    vectors = [make_scores(1, len(scores), scores.dtype, 10 + which)[0] for which in range(used)]
    offline = [*vectors, None, None, None, None][:4]
    results = run(
        "score_forward", scores, seed, **{name: v for name, v in zip(OFFLINE, offline) if v is not None},
        group_ids=group_ids, margin_online=margin, margin_offline=0.05, alpha=0.3, beta=1.5, objective=int(objective),
        online=int(online), reduction=int(reduction), detach_weight=False, clamp_weight=False,
    )  # fmt: skip
    for name in ("row_key", "column_key", "ticket"):
        assert not results.pop(name).any(), name  # as the next launch needs them
    options = LossOptions(margin, 0.05, objective=objective, online=online, reduction=reduction)
    expected = torch.ops.aoq.quintuplet_score_forward(scores, *offline, group_ids, *options.lists())
    return results, dict(zip(("loss", "text_index", "image_index", "saved"), expected))


def check_forward(scores: Tensor, *arguments: Any, **options: Any) -> None:
    results, expected = forward(scores, *arguments, **options)
    for name in ("text_index", "image_index"):
        assert torch.equal(results[name], expected[name]), name
    assert error(results["saved"], expected["saved"]) < ROUNDING
    assert error(results["loss"], expected["loss"].reshape(-1)) < ROUNDING


@pytest.mark.parametrize("online", Online)
@pytest.mark.parametrize("count", SIZES)
def test_forward(count: int, online: Online) -> None:
    check_forward(make_scores(count), online)


@pytest.mark.parametrize("online", Online)
@pytest.mark.parametrize("dtype", ELEMENTS)
def test_forward_of_every_type(dtype: torch.dtype, online: Online) -> None:
    check_forward(make_scores(70, dtype=dtype, seed=1), online, group_ids=torch.arange(70) // 3)


@pytest.mark.parametrize("reduction", Reduction)
@pytest.mark.parametrize("objective", Objective)
def test_forward_objectives(objective: Objective, reduction: Reduction) -> None:
    check_forward(make_scores(20), Online.HARDEST, objective, reduction)


@pytest.mark.parametrize("online", Online)
def test_forward_without_any_negative(online: Online) -> None:
    check_forward(make_scores(40), online, group_ids=torch.zeros(40, dtype=torch.int64))


@pytest.mark.parametrize("online", Online)
def test_infinities_mask_and_nan_is_hardest(online: Online) -> None:
    scores = make_scores(66)
    scores[3, 4:] = scores[20] = -torch.inf
    scores[20, 20] = 0.5
    results, expected = forward(scores, online, margin=0.0)
    assert torch.equal(results["text_index"], expected["text_index"])
    assert results["text_index"][20] == -1
    scores[5, 65] = scores[65, 7] = torch.nan
    results, expected = forward(scores, online)
    assert torch.equal(results["text_index"], expected["text_index"]) and results["loss"].isnan()
    assert torch.equal(results["image_index"], expected["image_index"])


def test_forward_of_a_large_batch_finishes_in_its_own_kernel() -> None:
    check_forward(make_scores(1500, seed=2))


@pytest.mark.parametrize("online", Online)
def test_forward_of_nothing(online: Online) -> None:
    results, _ = forward(torch.zeros(0, 0), online, Objective.ONLINE_TRIPLET)
    assert results["loss"].item() == 0


@pytest.mark.parametrize("online", Online)
def test_every_schedule_gives_the_same_bits(online: Online) -> None:
    scores = make_scores(70)
    expected, _ = forward(scores, online)
    for seed in range(1, simt.SCHEDULES):
        results, _ = forward(scores, online, seed=seed)
        assert all(torch.equal(results[name], value) for name, value in expected.items())


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("online", Online)
@pytest.mark.parametrize(("rows", "columns", "first"), [(5, 130, 60), (70, 75, 5), (64, 64, 0)])
def test_online_negatives(rows: int, columns: int, first: int, online: Online, dtype: torch.dtype) -> None:
    scores = make_scores(rows, columns, dtype)
    positive = make_scores(1, columns, torch.float64 if dtype == torch.float64 else torch.float32, 3)[0]
    groups = torch.arange(columns) // 2
    results = run(
        "score_negatives", scores, positive=positive, group_ids=groups, first=first, margin_online=0.2,
        online=int(online),
    )  # fmt: skip
    expected = torch.ops.aoq.online_negatives_of_scores(
        scores, positive, groups, first, *LossOptions(online=online).lists()
    )
    for name, tensor in zip(("row_keys", "row_hinges", "column_keys", "column_hinges"), expected):
        if name.endswith("hinges"):
            assert error(results[name], tensor) < ROUNDING
        else:
            assert torch.equal(results[name], tensor)


def backward(
    scores: Tensor,
    online: Online = Online.HARDEST,
    needs: int = 31,
    first: int = 0,
    reduction: Reduction = Reduction.NONE,
    group_ids: Tensor | None = None,
    seed: int = 0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """With slopes and indices at random."""
    anchors = scores.shape[1]
    compute = torch.float64 if scores.dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(4)
    text_index, image_index = torch.randint(-1, anchors, (2, anchors), generator=generator)
    image_index[: anchors // 3] = first  # chosen by many
    saved = torch.randn(10, anchors, generator=generator).to(compute)
    saved[:, 1::5] = 0
    saved[0] = torch.randint(-9, 10, (anchors,), generator=generator) / 16 + 0.2
    grad_loss = torch.randn(anchors if reduction == Reduction.NONE else 1, generator=generator).to(compute)
    divisor = float(anchors if reduction == Reduction.MEAN else 1)
    results = run(
        "score_backward", scores, seed, text_index=text_index, image_index=image_index, saved=saved,
        grad_loss=grad_loss, divisor=divisor, margin_online=0.2, online=int(online), needs=needs, first=first,
        group_ids=group_ids,
    )  # fmt: skip
    expected = torch.ops.aoq.quintuplet_score_backward(
        grad_loss if reduction == Reduction.NONE else grad_loss[0], scores, group_ids, text_index, image_index, saved,
        *LossOptions(online=online, reduction=reduction).lists(), needs, first,
    )  # fmt: skip
    named = dict(zip(("grad_scores", *(f"grad_{name}" for name in OFFLINE)), expected))
    return results, {name: grad for bit, (name, grad) in enumerate(named.items()) if needs >> bit & 1}


def check_backward(scores: Tensor, *arguments: Any, **options: Any) -> None:
    results, expected = backward(scores, *arguments, **options)
    assert results.keys() == expected.keys()
    tolerance = max(ROUNDING, torch.finfo(scores.dtype).eps)
    for name, grad in expected.items():
        assert error(results[name], grad) < tolerance, name
        assert torch.equal(results[name] == 0, grad == 0), name


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("online", Online)
def test_backward(online: Online, dtype: torch.dtype) -> None:
    check_backward(make_scores(37, dtype=dtype), online, group_ids=torch.arange(37) // 2)


@pytest.mark.parametrize("online", [Online.HARDEST, Online.ALL])
@pytest.mark.parametrize("count", [1, 4, 16, 17, 511, 512, 513])
def test_backward_around_a_tile(count: int, online: Online) -> None:
    check_backward(make_scores(min(count, 33), count), online, first=count - min(count, 33))


@pytest.mark.parametrize("reduction", Reduction)
@pytest.mark.parametrize("needs", [1, 2, 4, 8, 16, 22])
def test_only_the_gradients_asked_for(needs: int, reduction: Reduction) -> None:
    check_backward(make_scores(12), needs=needs, reduction=reduction)


@pytest.mark.parametrize("online", [Online.HARDEST, Online.ALL])
def test_backward_of_some_rows(online: Online) -> None:
    check_backward(make_scores(20, 90), online, first=31, group_ids=torch.arange(90) // 3)
