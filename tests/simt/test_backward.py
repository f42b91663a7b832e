"""The CUDA backward kernels, run by the emulator, against the CPU operator in float64."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import aoq_ext  # noqa: F401  (registers the operators)
from aoq_ext._options import LossOptions, Objective, Online, Reduction, Similarity
from tests import simt
from tests.losses import make_operands
from tests.numerics import error

NAMES = ("image", "text", "hard_image", "hard_text", "hard_text_image", "hard_image_text")
SAVED_ROWS = 10
DTYPES = {"float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}
# Of the largest element of a gradient: rounding of the result, and of the sums before it.
TOLERANCE = {"float": 4e-6, "double": 1e-14, "half": 6e-4, "bfloat16": 5e-3}
ALL = 63


def to_numpy(tensor: Tensor) -> Any:
    """Halves as the 16-bit words that the emulator takes."""
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy()


def padded(rows: Tensor) -> Tensor:
    """Rows of whole 16-byte pieces, as the host gives them to the kernels."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[-1] % (16 // rows.element_size())))


@dataclass
class Case:
    """A backward pass of rows first, …, first + rows − 1 of a batch of `anchors`, with slopes and indices at random."""

    rows: int
    width: int
    dtype: str = "float"
    similarity: Similarity = Similarity.DOT
    objective: Objective = Objective.ADAPTIVE_QUINTUPLET
    candidates: int = 0
    anchors: int = 0
    first: int = 0
    reduction: Reduction = Reduction.NONE
    seed: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    hub_pieces: int = 0  # of the last run

    def __post_init__(self) -> None:
        self.anchors = self.anchors or self.rows
        generator = torch.Generator().manual_seed(self.seed)
        dtype, compute = DTYPES[self.dtype], torch.float64 if self.dtype == "double" else torch.float32
        own = make_operands(self.rows, self.width, self.candidates, dtype, self.seed)
        used = (2, 4, 6, 6)[self.objective]
        tensors = dict(zip(NAMES[:used], own))
        for name, seed in (("all_image", 1), ("all_text", 2)):
            whole = make_operands(self.anchors, self.width, 0, dtype, self.seed + seed)[seed - 1]
            whole[self.first : self.first + self.rows] = tensors[name[4:]]
            tensors[name] = whole
        for name in ("text_index", "image_index"):
            tensors[name] = torch.randint(-1, self.anchors, (self.anchors,), generator=generator)
        tensors["choice"] = torch.randint(0, max(self.candidates, 1), (2, self.rows), generator=generator)
        saved = torch.randn(SAVED_ROWS, self.anchors, dtype=torch.float64, generator=generator)
        tensors["saved"] = (saved * (torch.rand(saved.shape, generator=generator) < 0.7)).to(compute)
        count = self.anchors if self.reduction == Reduction.NONE else 1
        tensors["grad_loss"] = torch.randn(count, dtype=torch.float64, generator=generator).to(compute)
        self.tensors = tensors | self.tensors

    def kernel(
        self,
        needs: int = ALL,
        rows_per_block: int = 3,
        hub_blocks: int = 3,
        resident_blocks: int = 3,
        seed: int = 0,
        **extra: Tensor,
    ) -> dict[str, Tensor]:
        arrays = {}
        for name, tensor in (self.tensors | extra).items():
            is_rows = tensor.is_floating_point() and name not in ("saved", "grad_loss")
            arrays[name] = to_numpy(padded(tensor) if is_rows else tensor)
        given = sum(1 << bit for bit, name in enumerate(NAMES) if name in self.tensors)
        results = simt.load("backward").run(
            f"backward_{self.dtype}", seed=seed, similarity=int(self.similarity), needs=needs & given,
            first=self.first, rows_per_block=rows_per_block, hub_blocks=hub_blocks, resident_blocks=resident_blocks,
            divisor=float(self.anchors if self.reduction == Reduction.MEAN else 1), **arrays,
        )  # fmt: skip
        self.hub_pieces = int(results.pop("hub_pieces"))
        dtype = DTYPES[self.dtype]
        words = {name: torch.from_numpy(array) for name, array in results.items()}
        if dtype.itemsize == 2:
            words = {name: tensor.to(torch.int32).to(torch.int16).view(dtype) for name, tensor in words.items()}
        return {name[5:]: tensor[..., : self.width] for name, tensor in words.items()}

    def truth(self, needs: int = ALL) -> dict[str, Tensor]:
        wide = {name: t.double() if t.is_floating_point() else t for name, t in self.tensors.items()}
        options = LossOptions(objective=self.objective, similarity=self.similarity, reduction=self.reduction)
        grads = torch.ops.aoq.quintuplet_backward(
            wide["grad_loss"] if self.reduction == Reduction.NONE else wide["grad_loss"][0],
            *(wide.get(name) for name in NAMES), None, wide["text_index"], wide["image_index"], wide["choice"],
            wide["saved"], *options.lists(), needs, wide["all_image"], wide["all_text"], self.first,
        )  # fmt: skip
        return {name: grad for bit, (name, grad) in enumerate(zip(NAMES, grads)) if needs >> bit & 1 and name in wide}

    def check(self, needs: int = ALL, **options: int) -> None:
        results, truth = self.kernel(needs, **options), self.truth(needs)
        assert results.keys() == truth.keys()
        for name, grad in truth.items():
            assert error(results[name], grad) < TOLERANCE[self.dtype], name


@pytest.mark.parametrize("similarity", Similarity)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype: str, similarity: Similarity) -> None:
    Case(21, 40, dtype, similarity).check()


@pytest.mark.parametrize("width", [4, 127, 128, 132, 300])
@pytest.mark.parametrize("similarity", Similarity)
def test_widths_around_a_slice(width: int, similarity: Similarity) -> None:
    Case(5, width, similarity=similarity).check()


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("similarity", Similarity)
def test_objectives(objective: Objective, similarity: Similarity) -> None:
    Case(9, 12, similarity=similarity, objective=objective, reduction=Reduction.MEAN).check()


@pytest.mark.parametrize("similarity", Similarity)
def test_only_the_gradients_asked_for(similarity: Similarity) -> None:
    case = Case(7, 8, similarity=similarity, reduction=Reduction.SUM)
    for needs in (1, 2, 4, 8, 16, 32, 3, 60, 21, 42):
        case.check(needs)


@pytest.mark.parametrize("similarity", Similarity)
def test_candidates(similarity: Similarity) -> None:
    Case(6, 20, similarity=similarity, candidates=3).check()


@pytest.mark.parametrize("rows_per_block", [1, 31, 32, 33, 70, 300])
def test_rows_around_a_batch(rows_per_block: int) -> None:
    Case(70, 8).check(rows_per_block=rows_per_block)


def test_more_rows_a_block_than_are_taken_at_once() -> None:
    Case(300, 4).check(rows_per_block=300)


@pytest.mark.parametrize("similarity", Similarity)
def test_rows_of_a_gathered_batch(similarity: Similarity) -> None:
    Case(6, 16, similarity=similarity, anchors=40, first=13).check()


@pytest.mark.parametrize("similarity", Similarity)
@pytest.mark.parametrize("width", [12, 1200])
def test_hub(similarity: Similarity, width: int) -> None:
    """More anchors than a list holds chose the same row, in either direction."""
    case = Case(4, width, similarity=similarity, anchors=2300, first=100)
    case.tensors["text_index"][:] = 102
    case.tensors["image_index"][5:] = 101
    case.check(rows_per_block=4)


@pytest.mark.parametrize("similarity", Similarity)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_anchor_chose_one_row(dtype: str, similarity: Similarity) -> None:
    """As many blocks as there are times 512 choosers share it."""
    case = Case(3, 40, dtype, similarity, anchors=1100, first=500)
    case.tensors["text_index"][:], case.tensors["image_index"][:] = 501, 502
    case.tensors["saved"][case.tensors["saved"] == 0] = 0.5
    for hub_blocks in (1, 2, 4):
        case.check(hub_blocks=hub_blocks)
        assert case.hub_pieces == 4


@pytest.mark.parametrize("similarity", Similarity)
def test_many_hubs(similarity: Similarity) -> None:
    """In one range and in several, as image, as text and as both; between them rows that few or none chose."""
    case = Case(12, 24, similarity=similarity, anchors=5000, first=40)
    draw = torch.Generator().manual_seed(3)
    chances = {
        "text_index": torch.tensor([0.0, 2, 0, 3, 0.1, 0.1, 0, 0, 0.1, 2, 0, 0.1]),
        "image_index": torch.tensor([1, 0.1, 0, 3, 0, 2, 0, 0.05, 0, 0, 1, 0]),
    }
    expected = 0
    for name, slope in (("text_index", 2), ("image_index", 3)):
        case.tensors[name] = 40 + torch.multinomial(chances[name], 5000, replacement=True, generator=draw)
        active = case.tensors[name][case.tensors["saved"][slope] != 0] - 40
        count = active.bincount(minlength=12)
        expected += sum(count[count > 512] // 512).item()
    for rows_per_block in (1, 5, 12):
        case.check(rows_per_block=rows_per_block, hub_blocks=4)
        assert case.hub_pieces == expected > 5


@pytest.mark.parametrize("similarity", Similarity)
@pytest.mark.parametrize("behind", [0, 4400])
def test_hub_whose_choosers_stand_together(behind: int, similarity: Similarity) -> None:
    """A piece then has more of them than a list holds, and another none."""
    case = Case(2, 12, similarity=similarity, anchors=6000)
    case.tensors["saved"][case.tensors["saved"] == 0] = 0.5
    for name in ("text_index", "image_index"):
        case.tensors[name][:] = -1
        case.tensors[name][behind : behind + 1600] = 1
    case.check(hub_blocks=6)
    assert case.hub_pieces == 6


@pytest.mark.parametrize(("choosers", "pieces"), [(512, 0), (513, 1), (1023, 1), (1024, 2)])
def test_hub_begins_behind_512_choosers(choosers: int, pieces: int) -> None:
    """Whether or not a list holds them, and however many rows share it."""
    case = Case(6, 8, anchors=1200)
    case.tensors["saved"][case.tensors["saved"] == 0] = 0.5
    case.tensors["text_index"] = torch.arange(1200)
    case.tensors["text_index"][:choosers] = 4
    for rows_per_block in (1, 2, 6):
        case.check(rows_per_block=rows_per_block)
        assert case.hub_pieces == pieces


def test_hub_of_inactive_anchors_is_none() -> None:
    case = Case(3, 8, anchors=2000)
    case.tensors["text_index"][:] = case.tensors["image_index"][:] = 1
    case.tensors["saved"][2, 100:] = case.tensors["saved"][3, :1900] = 0
    case.check()
    assert case.hub_pieces == 0


def test_hub_on_the_side_that_needs_no_gradient() -> None:
    case = Case(3, 8, anchors=1200)
    case.tensors["text_index"][:] = 1
    for needs in (1, 60):
        case.check(needs)
        assert case.hub_pieces == 0


def test_crowded_range_is_halved() -> None:
    case = Case(8, 4, anchors=2200)
    case.tensors["text_index"] = torch.arange(2200) % 8
    case.check(rows_per_block=8)


def test_inactive_rows_are_not_read() -> None:
    """An infinity in a row that has no slope leaves no trace."""
    case = Case(6, 8)
    case.tensors["saved"][:, 3] = 0
    for name in ("hard_image", "hard_text", "hard_text_image", "hard_image_text"):
        case.tensors[name][3] = torch.inf
    case.check()


@pytest.mark.parametrize("similarity", Similarity)
def test_zero_rows(similarity: Similarity) -> None:
    case = Case(6, 8, similarity=similarity)
    for name in ("image", "all_image"):
        case.tensors[name][2] = 0
    for name in ("text", "all_text"):
        case.tensors[name][2] = 0
    case.check()


def test_nan_reaches_the_gradients() -> None:
    case = Case(3, 4)
    case.tensors["saved"][1:8] = 1
    case.tensors["hard_text"][1, 2] = torch.nan
    results = case.kernel()
    assert results["image"][1, 2].isnan() and results["hard_image"][1, 2].isnan()
    assert sum(grad.isnan().sum().item() for grad in results.values()) == 2


def test_indices_out_of_range_are_ignored() -> None:
    case = Case(5, 4, candidates=2)
    wrong = replace(case, tensors={name: t.clone() for name, t in case.tensors.items()})
    case.tensors["text_index"][1], wrong.tensors["text_index"][1] = -1, 5_000_000_000
    case.tensors["image_index"][2], wrong.tensors["image_index"][2] = -1, -7
    case.tensors["choice"][0, 0], wrong.tensors["choice"][0, 0] = 0, 9
    for name, grad in case.kernel().items():
        assert torch.equal(grad, wrong.kernel()[name])


@pytest.mark.parametrize("anchors", [7, 1200])
@pytest.mark.parametrize("similarity", Similarity)
def test_begins_with_the_dense_part(similarity: Similarity, anchors: int) -> None:
    case = Case(7, 140, similarity=similarity, anchors=anchors)
    case.tensors["text_index"][:] = case.tensors["image_index"][:] = 5  # of 1200, a hub
    dense = {name: torch.randn(7, 140) for name in ("dense_image", "dense_text")}
    plain, results = case.kernel(), case.kernel(**dense)
    for name in ("image", "text"):
        part, rows = dense[f"dense_{name}"].double(), case.tensors[name].double()
        if similarity == Similarity.COSINE:  # all but what runs along the row
            unit = rows / rows.norm(dim=1, keepdim=True)
            part = part - (part * unit).sum(1, keepdim=True) * unit
        assert error(results[name].double() - plain[name].double(), part) < 1e-5


@pytest.mark.parametrize("similarity", Similarity)
def test_every_schedule_gives_the_same_bits(similarity: Similarity) -> None:
    """And every grid, so that the number of a GPU's processors does not matter."""
    case = Case(11, 136, similarity=similarity, anchors=2300, first=9)
    case.tensors["image_index"][:] = 12
    case.tensors["text_index"][::2] = 12
    expected = case.kernel()
    assert case.hub_pieces == 4
    for seed in range(1, simt.SCHEDULES):
        grid = {"rows_per_block": 1 + seed * 3 % 11, "hub_blocks": 1 + seed % 5, "resident_blocks": 1 + seed % 4}
        results = case.kernel(seed=seed, **grid)
        assert all(torch.equal(results[name], grad) for name, grad in expected.items())


@dataclass
class AllCase:
    """Rows first, …, first + rows − 1 of a batch whose online negatives are all of them, from a forward pass."""

    anchors: int
    width: int
    dtype: str = "float"
    similarity: Similarity = Similarity.DOT
    group_ids: Tensor | None = None
    margin: float = 0.2
    rows: int = 0
    first: int = 0
    operands: list[Tensor] | None = None

    def __post_init__(self) -> None:
        self.rows = self.rows or self.anchors
        self.operands = self.operands or make_operands(self.anchors, self.width, 0, DTYPES[self.dtype], 5)
        self.lists = LossOptions(margin_online=self.margin, online=Online.ALL, similarity=self.similarity).lists()
        self.forward = torch.ops.aoq.quintuplet_forward(*self.operands, self.group_ids, *self.lists)

    def truth(self) -> list[Tensor]:
        _, *saved = (t.double() if t.is_floating_point() else t for t in self.forward)
        grads = torch.ops.aoq.quintuplet_backward(
            torch.ones((), dtype=torch.float64), *(rows.double() for rows in self.operands), self.group_ids, *saved,
            *self.lists, ALL,
        )  # fmt: skip
        return [grad[self.first : self.first + self.rows] for grad in grads]

    def kernel(self, needs: int = 3, panel_elements: int = 4000, seed: int = 0) -> dict[str, Tensor]:
        own = [rows[self.first : self.first + self.rows] for rows in self.operands]
        _, text_index, image_index, choice, saved = self.forward
        case = Case(self.rows, self.width, self.dtype, self.similarity, anchors=self.anchors, first=self.first)
        image, text = self.operands[:2]
        case.tensors = dict(zip(NAMES, own)) | {
            "all_image": image, "all_text": text, "text_index": text_index, "image_index": image_index,
            "choice": choice[:, self.first : self.first + self.rows], "saved": saved,
            "grad_loss": torch.ones(1, dtype=saved.dtype),
        }  # fmt: skip
        pairs = {name: case.tensors[name] for name in ("image", "text", "all_image", "all_text")}
        scales = {f"{name}_scale": to_numpy(1 / t.to(saved.dtype).norm(dim=1)) for name, t in pairs.items()}
        dense = simt.load("backward").run(
            f"all_negatives_{self.dtype}", seed=seed, similarity=int(self.similarity), needs=needs, first=self.first,
            margin_online=self.margin, divisor=1.0, panel_elements=panel_elements,
            group_ids=None if self.group_ids is None else to_numpy(self.group_ids), saved=to_numpy(saved),
            grad_loss=to_numpy(case.tensors["grad_loss"]), **scales,
            **{name: to_numpy(padded(tensor)) for name, tensor in pairs.items()},
        )  # fmt: skip
        del dense["panel"]
        parts = {name: torch.from_numpy(array)[:, : self.width] for name, array in dense.items()}
        return case.kernel(needs | ALL & ~3, seed=seed, **parts)

    def check(self, **options: int) -> None:
        results = self.kernel(**options)
        for name, grad in zip(NAMES, self.truth()):
            if name in results:
                assert error(results[name], grad) < 4 * TOLERANCE[self.dtype], name


@pytest.mark.parametrize("similarity", Similarity)
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_negatives(dtype: str, similarity: Similarity) -> None:
    AllCase(13, 40, dtype, similarity, torch.arange(13) // 2).check()


@pytest.mark.parametrize("similarity", Similarity)
def test_all_negatives_in_panels(similarity: Similarity) -> None:
    """More than one tile of scores, and more than one panel."""
    AllCase(70, 12, similarity=similarity).check(panel_elements=70 * 33)


@pytest.mark.parametrize("needs", [1, 2])
def test_all_negatives_of_one_side(needs: int) -> None:
    AllCase(9, 8).check(needs=needs)


@pytest.mark.parametrize("similarity", Similarity)
def test_all_negatives_of_a_gathered_batch(similarity: Similarity) -> None:
    AllCase(20, 8, similarity=similarity, group_ids=torch.arange(20) // 3, rows=6, first=7).check(panel_elements=50)


def test_duplicates_of_a_positive_are_inactive_without_margin() -> None:
    operands = make_operands(8, 4, 0, torch.float32, 1)
    operands[0], operands[1] = (operands[0] * 4).round(), (operands[1] * 4).round()  # sums are exact in any order
    operands[1][3] = operands[1][5]
    operands[0][2] = operands[0][6]
    AllCase(8, 4, margin=0.0, operands=operands).check()
