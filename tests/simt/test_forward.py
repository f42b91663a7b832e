"""The CUDA forward kernels, run by the emulator, against the reference and the CPU operator in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aoq_ext import reference
from aoq_ext._options import LossOptions, Objective, Similarity
from tests import simt
from tests.losses import OBJECTIVES, ONLINE, SIMILARITIES, make_operands

NAMES = ("image", "text", "hard_image", "hard_text", "hard_text_image", "hard_image_text")
ELEMENTS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
# Of a score of unit rows: rounding of float32 sums; of TF32 operands.
SCORE_ERROR = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2e-6, torch.float16: 2e-6}
TF32_ERROR = 2e-3


def padded(rows: Tensor) -> Any:
    """Rows of whole 16-byte pieces, as the host gives them to the kernels; halves as 16-bit words."""
    rows = torch.nn.functional.pad(rows, (0, -rows.shape[-1] % (16 // rows.element_size()))).contiguous()
    return (rows.view(torch.int16) if rows.element_size() == 2 else rows).numpy()


def arguments_of(operands: list[Tensor], group_ids: Tensor | None, allow_tf32: bool, **options: Any) -> dict[str, Any]:
    chosen = LossOptions.create(**{"objective": "adaptive_quintuplet", **options})
    used = {Objective.ONLINE_TRIPLET: 2, Objective.OFFLINE_TRIPLET: 4}.get(chosen.objective, 6)
    return {
        **{name: padded(rows) for name, rows in zip(NAMES[:used], operands)},
        "group_ids": None if group_ids is None else group_ids.numpy(),
        "element": ELEMENTS[operands[0].dtype],
        "allow_tf32": allow_tf32,
        **{name: int(value) for name, value in vars(chosen).items() if isinstance(value, int)},
        **{name: value for name, value in vars(chosen).items() if isinstance(value, float)},
    }


def run(
    name: str,
    operands: list[Tensor],
    group_ids: Tensor | None = None,
    *,
    seed: int = 0,
    allow_tf32: bool = False,
    extra: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    arguments = {**arguments_of(operands, group_ids, allow_tf32, **options), **(extra or {})}
    return simt.load("forward").run(name, seed=seed, **arguments)


def cpu_forward(operands: list[Tensor], group_ids: Tensor | None = None, **options: Any) -> dict[str, Tensor]:
    chosen = LossOptions.create(**{"objective": "adaptive_quintuplet", **options})
    names = ("loss", "text_index", "image_index", "choice", "saved")
    values = torch.ops.aoq.quintuplet_forward(*(o.double() for o in operands), group_ids, *chosen.lists())
    return dict(zip(names, values))


def score_matrix(image: Tensor, text: Tensor, similarity: str = "dot") -> Tensor:
    return reference._similarity_matrix(image.double(), text.double(), Similarity[similarity.upper()])


def assert_same_scores(scores: Tensor, index: Any, expected: Tensor, error: float) -> None:
    """Row i's chosen entry scores as the expected one does; −1 at the same rows."""
    index = torch.from_numpy(index)
    assert torch.equal(index < 0, expected < 0)
    rows = torch.arange(len(index))[index >= 0]
    chosen, wanted = scores[rows, index[rows]], scores[rows, expected[rows]]
    torch.testing.assert_close(chosen, wanted, rtol=0, atol=error, equal_nan=True)


def check_forward(
    operands: list[Tensor],
    group_ids: Tensor | None = None,
    *,
    error: float | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    error = error or SCORE_ERROR[operands[0].dtype]
    got = run("forward", operands, group_ids, seed=seed, **options)
    options.pop("allow_tf32", None)
    truth = [o.double() for o in operands]
    expected = cpu_forward(operands, group_ids, **options)
    count = len(operands[0])
    assert not got["row_key"].any() and not got["column_key"].any() and not got["ticket"].any()
    scores = score_matrix(*operands[:2], options.get("similarity", "dot"))
    assert_same_scores(scores, got["text_index"], expected["text_index"], error)
    assert_same_scores(scores.T, got["image_index"], expected["image_index"], error)
    np.testing.assert_array_equal(got["choice"], expected["choice"])
    # A slope is a weight (through a hinge's value / α) or a count; the loss, a sum of weights times hinges.
    np.testing.assert_allclose(got["saved"], expected["saved"], rtol=1e-5, atol=100 * error)
    loss = reference.adaptive_quintuplet_loss(*truth, group_ids, **options)
    atol = 30 * error * (count if options.get("reduction", "sum") == "sum" else 1)
    np.testing.assert_allclose(got["loss"], loss.reshape(-1), rtol=1e-6, atol=max(atol, 1e-12))
    return got


@pytest.mark.parametrize("online", ONLINE)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
def test_every_kind_of_loss(dtype: torch.dtype, similarity: str, online: str) -> None:
    operands = make_operands(33, 20, dtype=dtype, seed=1)
    groups = torch.arange(33) % 11
    check_forward(operands, groups, online=online, similarity=similarity, reduction="none")


@pytest.mark.parametrize("online", ONLINE)
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
def test_a_zero_row_scores_zero_by_cosine(dtype: torch.dtype, online: str) -> None:
    operands = make_operands(34, 24, dtype=dtype, seed=15)
    for place, rows in enumerate(operands):
        rows[place + 2] = 0
    check_forward(operands, online=online, similarity="cosine", reduction="none")


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("online", ONLINE)
def test_objectives(objective: str, online: str) -> None:
    operands = make_operands(17, 8, dtype=torch.bfloat16, seed=2)
    check_forward(operands, objective=objective, online=online, reduction="mean")


@pytest.mark.parametrize("flags", [{"detach_weight": True}, {"clamp_weight": True, "alpha": 0.05}], ids=str)
def test_weights(flags: dict[str, Any]) -> None:
    check_forward(make_operands(20, 8, dtype=torch.float32, seed=3), margin_offline=0.1, reduction="none", **flags)


@pytest.mark.parametrize("online", ONLINE)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_candidates(dtype: torch.dtype, similarity: str, online: str) -> None:
    operands = make_operands(13, 12, candidates=3, dtype=dtype, seed=4)
    got = check_forward(operands, similarity=similarity, online=online, reduction="none")
    assert got["choice"].any()


def test_candidates_tie_to_the_lowest() -> None:
    operands = make_operands(6, 8, candidates=4, dtype=torch.float32, seed=5)
    for rows in operands[2:]:
        rows[:, 2] = rows[:, 1]
    got = check_forward(operands, reduction="none")
    assert (got["choice"] != 2).all() and (got["choice"] == 1).any()


@pytest.mark.parametrize("online", ONLINE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 65])
def test_sizes(count: int, dtype: torch.dtype, online: str) -> None:
    operands = make_operands(count, 8, dtype=dtype, seed=count)
    got = check_forward(operands, online=online)
    if count < 2:
        assert (got["text_index"] == -1).all()


@pytest.mark.parametrize("width", [1, 8, 40, 64, 200, 393])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_widths(width: int, dtype: torch.dtype) -> None:
    """Slices that end within a row, fewer slices than stages, and more."""
    check_forward(make_operands(9, width, dtype=dtype, seed=6), reduction="none")


def test_no_dimensions() -> None:
    check_forward([torch.zeros(3, 0)] * 6, reduction="none")


def test_tf32() -> None:
    operands = make_operands(40, 24, dtype=torch.float32, seed=7)
    exact = run("forward", operands)
    rounded = run("forward", operands, allow_tf32=True)
    assert abs(exact["loss"] - rounded["loss"])[0] > 0
    check_forward([o.mul(64).round().div(64) for o in operands], allow_tf32=True)  # exact in TF32
    np.testing.assert_allclose(rounded["loss"], exact["loss"], atol=40 * 30 * TF32_ERROR)


def test_last_block_of_a_grid_of_finishing_blocks() -> None:
    """More anchors than one block of the finish kernel takes; the walk of float64 leads there."""
    check_forward(make_operands(300, 2, dtype=torch.float64, seed=8))


def test_middle_tiles_finish_in_their_own_launch() -> None:
    check_forward(make_operands(520, 4, dtype=torch.bfloat16, seed=9))


def truth_keys(operands: list[Tensor], first: int, groups: Tensor | None, positive: Tensor | None) -> list[Tensor]:
    """The hardest texts of the images, and the hardest images of the texts: indices of anchors, −1 for none."""
    scores = score_matrix(*operands)
    rows, columns = scores.shape
    own = first + torch.arange(rows)
    group = torch.arange(columns) if groups is None else groups
    allowed = group[own][:, None] != group[None]
    results = []
    for s, a, p in ((scores, allowed, None if positive is None else positive[own]), (scores.T, allowed.T, positive)):
        chosen = a if p is None else a & ~(s >= p[:, None])
        masked = s.masked_fill(~chosen, -math.inf)
        best = masked.max(dim=1) if s.shape[1] else None
        index = torch.full((len(s),), -1) if best is None else best.indices
        results.append(torch.where(masked.isneginf().all(dim=1), -1, index))
    return results


def unpacked(key: Any) -> Any:
    return np.where(key == 0, -1, (~key & np.uint64(0xFFFFFFFF)).astype(np.int64))


def exact_operands(rows: int, columns: int, width: int, dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Few small integers: every score is exact in any order of summation, and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-2, 3, (n, width), generator=generator).to(dtype) for n in (rows, columns)]


def run_tiles(
    operands: list[Tensor],
    tile: int,
    first: int = 0,
    groups: Tensor | None = None,
    positive: Tensor | None = None,
    seed: int = 0,
    **options: Any,
) -> list[Any]:
    extra = {"tile": tile, "first": first, "positive": None if positive is None else positive.numpy()}
    got = run("tiles", operands, groups, extra=extra, seed=seed, objective="online_triplet", **options)
    return [got["row_key"], got["column_key"]]


WAYS = {
    "bfloat16": (torch.bfloat16, {}),
    "half": (torch.float16, {}),
    "tf32": (torch.float32, {"allow_tf32": True}),
    "float": (torch.float32, {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("tile", "rows", "columns"),
    [
        (32, 31, 33),
        (32, 64, 66),
        (32, 40, 102),
        (64, 63, 65),
        (64, 64, 190),
        (128, 127, 129),
        (128, 128, 128),
        (128, 1, 130),
    ],
)
def test_tiles_find_the_lowest_index_of_the_highest_score(tile: int, rows: int, columns: int, way: str) -> None:
    dtype, options = WAYS[way]
    operands = exact_operands(rows, columns, 9, dtype, seed=tile + rows)
    first = (columns - rows) // 2
    operands[1][first : first + rows] = 2 * operands[0]  # a pair scores high, and must be left out
    row_key, column_key = run_tiles(operands, tile, first, **options)
    texts, images = truth_keys(operands, first, None, None)
    np.testing.assert_array_equal(unpacked(row_key), texts)
    np.testing.assert_array_equal(unpacked(column_key), torch.where(images < 0, -1, images + first))


@pytest.mark.parametrize("tile", [32, 64, 128])
@pytest.mark.parametrize("way", ["half", "float"])
def test_tiles_leave_out_groups_and_what_is_not_below_the_positive(tile: int, way: str) -> None:
    dtype, options = WAYS[way]
    count = tile + 5
    operands = exact_operands(count - 2, count, 6, dtype, seed=tile)
    groups = torch.arange(count) // 4 * 10**12
    for positive in (None, torch.linspace(-8, 8, count).round()):
        row_key, column_key = run_tiles(operands, tile, 1, groups, positive, **options)
        texts, images = truth_keys(operands, 1, groups, positive)
        np.testing.assert_array_equal(unpacked(row_key), texts)
        np.testing.assert_array_equal(unpacked(column_key), torch.where(images < 0, -1, images + 1))


@pytest.mark.parametrize("tile", [32, 64])
def test_order_tiles(tile: int) -> None:
    operands = make_operands(tile + 2, 7, dtype=torch.float16, seed=tile)[:2]
    row_key, column_key = run_tiles(operands, tile, similarity="order")
    scores = score_matrix(*operands, "order").fill_diagonal_(-math.inf)
    assert_same_scores(scores, unpacked(row_key), scores.max(dim=1).indices, 1e-6)
    assert_same_scores(scores.T, unpacked(column_key), scores.max(dim=0).indices, 1e-6)


@pytest.mark.parametrize("online", ["hardest", "semihard", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_nan_is_the_hardest_and_minus_infinity_no_negative(dtype: torch.dtype, online: str) -> None:
    operands = [torch.ones(40, 4, dtype=dtype) for _ in range(6)]
    operands[0][:, 1:] = 0
    operands[1][:, 0] = torch.arange(40).to(dtype) / 64
    operands[1][7, 0] = operands[1][35, 0] = math.nan
    operands[1][39, 0] = -math.inf
    got = run("forward", operands, online=online, objective="online_triplet", reduction="none")
    others = [i for i in range(40) if i not in (7, 35, 39)]
    assert (got["text_index"][others] == 7).all()
    assert got["text_index"][7] == 35 and got["text_index"][35] == 7
    assert got["image_index"][39] == -1  # all that this text scores are −inf
    assert np.isnan(got["loss"][others]).all()


@pytest.mark.parametrize("online", ["hardest", "semihard", "all"])
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
def test_duplicates_of_the_positive_tie_with_it_exactly(dtype: torch.dtype, online: str) -> None:
    """One arithmetic for all scores: at margins of 0 an equal pair's hinge is inactive, and it is not semihard."""
    operands = make_operands(70, 100, dtype=dtype, seed=10)
    operands[1][40] = operands[1][3]
    operands[0][40] = operands[0][3]
    operands[2:] = [operands[0], operands[1], operands[0], operands[1]]
    got = run("forward", operands, online=online, margin_online=0.0, reduction="none", similarity="dot")
    scores = score_matrix(*operands[:2])
    p = scores.diagonal()
    hard = (scores > p[:, None] + 1e-9).any(dim=1) | (p[:, None] + 1e-9 < scores.T).any(dim=1)
    assert not hard[3] and not hard[40]  # the duplicate alone reaches the positive
    assert (got["loss"][[3, 40]] == 0).all()
    assert (got["saved"][1:8][:, [3, 40]] == 0).all()
    if online == "semihard":
        assert got["text_index"][3] not in (3, 40) and got["image_index"][40] not in (3, 40)
    else:
        assert got["text_index"][3] == 40 and got["image_index"][40] == 3


@pytest.mark.parametrize("online", ONLINE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_stages_of_two_processes_give_the_whole_batch(dtype: torch.dtype, online: str) -> None:
    """Bit by bit, but for the sums over all negatives, which each process makes of its own images."""
    operands = make_operands(37, 16, dtype=dtype, seed=11)
    groups = torch.arange(37) // 2
    whole = run("forward", operands, groups, online=online, reduction="none")
    spans = [slice(0, 20), slice(20, 37)]
    scores = [run("anchor_scores", [o[s] for o in operands], online=online)["scores"] for s in spans]
    for part, s in zip(scores, spans):
        np.testing.assert_array_equal(part[0], whole["saved"][0, s])
    positive = np.concatenate([part[0] for part in scores])
    found = [
        run(
            "online_negatives", [operands[0][s], operands[1]], groups, online=online, objective="online_triplet",
            extra={"first": s.start, "positive": positive},
        )
        for s in spans
    ]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate([f["text_index"] for f in found]), whole["text_index"])
    lead = found[1]["column_keys"][0] > found[0]["column_keys"][0]
    merged = np.where(lead, found[1]["column_keys"], found[0]["column_keys"])
    np.testing.assert_array_equal(merged[1], whole["image_index"])
    if dtype == torch.float64:
        return  # its losses are finished by the same kernel
    hinges = found[0]["column_hinges"] + found[1]["column_hinges"]
    for part, f, s in zip(scores, found, spans):
        finished = run(
            "anchor_losses", [torch.zeros(1, 4)] * 2, online=online, reduction="none",
            extra={
                "objective": int(Objective.ADAPTIVE_QUINTUPLET), "scores": part, "text_keys": f["row_keys"],
                "text_hinges": f["row_hinges"], "image_keys": merged[:, s], "image_hinges": hinges[:, s],
            },
        )  # fmt: skip
        for name in ("text_index", "image_index"):
            np.testing.assert_array_equal(finished[name], whole[name][s])
        compare = np.testing.assert_allclose if online == "all" else np.testing.assert_array_equal
        compare(finished["loss"], whole["loss"][s], **({"rtol": 1e-5} if online == "all" else {}))


def test_no_images_here() -> None:
    texts = make_operands(5, 8, dtype=torch.float32)[1]
    extra = {"first": 2, "positive": np.zeros(5, np.float32)}
    for online in ONLINE:
        got = run("online_negatives", [texts[:0], texts], online=online, objective="online_triplet", extra=extra)
        assert (got["image_index"] == -1).all() and np.isneginf(got["image_score"]).all()
        assert (got["column_keys"][0] == np.iinfo(np.int32).min).all() and not got["column_hinges"].any()


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_a_chunk_of_several_tiles(chunks: int) -> None:
    """Ties across tiles and chunks go to the lowest index; the sums are exact, so their order does not matter."""
    operands = exact_operands(150, 150, 72, torch.float64, seed=14)
    scores = score_matrix(*operands)
    positive = scores.diagonal().contiguous()
    extra = {"chunks": chunks, "positive": positive.numpy()}
    texts, images = truth_keys(operands, 0, None, None)
    off = ~torch.eye(150, dtype=torch.bool)
    for seed in range(6):
        got = run("walk", operands, seed=seed, online="all", margin_online=0.5, objective="online_triplet", extra=extra)
        for name, index, s in (("row", texts, scores), ("column", images, scores.T)):
            values = torch.where(off, (0.5 + s - positive[:, None]).clamp(min=0), 0)
            np.testing.assert_array_equal(got[f"{name}_keys"][1], index)
            np.testing.assert_array_equal(got[f"{name}_hinges"], torch.stack([values.sum(1), (values > 0).sum(1)]))


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.bfloat16, {}),
        (torch.bfloat16, {"online": "semihard", "similarity": "cosine"}),
        (torch.float32, {"online": "all"}),
        (torch.float64, {}),
        (torch.float16, {"similarity": "order"}),
    ],
    ids=str,
)
def test_schedules_do_not_show(dtype: torch.dtype, options: dict[str, Any]) -> None:
    operands = make_operands(40, 72, dtype=dtype, seed=12)
    first = run("forward", operands, **options)
    for seed in range(1, simt.SCHEDULES):
        other = run("forward", operands, seed=seed, **options)
        for name, value in first.items():
            np.testing.assert_array_equal(value, other[name], err_msg=f"{name}, seed {seed}")


@pytest.mark.parametrize("way", ["bfloat16", "float"])
def test_schedules_of_large_tiles_do_not_show(way: str) -> None:
    dtype, options = WAYS[way]
    operands = exact_operands(130, 130, 40, dtype, seed=13)
    first = run_tiles(operands, 128, **options)
    for seed in range(1, 4 if way == "float" else simt.SCHEDULES):
        for expected, key in zip(first, run_tiles(operands, 128, seed=seed, **options)):
            np.testing.assert_array_equal(expected, key)
