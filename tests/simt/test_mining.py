"""The CUDA mining kernels, run by the emulator, against the plain definition: every list equal to the bit."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aoq_ext.mining import plain
from aoq_ext.mining.keys import NO_KEY, no_keys
from aoq_ext.mining.side import Ragged, Side
from tests import simt

ELEMENTS = {torch.float32: 0, torch.bfloat16: 2, torch.float16: 3}
PLENTY = 1 << 31
EVERY_ARITHMETIC = [(torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 2), (torch.float16, 2)]


def padded(rows: Tensor, gap: int) -> Any:
    """Rows of whole 16-byte pieces, and between them some pieces of NaN."""
    piece = 16 // rows.element_size()
    rows = torch.nn.functional.pad(rows, (0, -rows.shape[-1] % piece))
    rows = torch.nn.functional.pad(rows, (0, gap * piece), value=torch.nan).contiguous()
    return (rows.view(torch.int16) if rows.element_size() == 2 else rows).numpy()


@dataclass
class Case:
    """A tile; sizes of blocks and samples that a small tile would not have."""

    anchors: Side
    candidates: Side
    anchor_keys: Tensor
    candidate_keys: Tensor | None
    arithmetic: int = 2
    bytes: int = PLENTY
    least_sampled: int = 1024
    most_rows: int = PLENTY
    cuts_off: bool = False
    gap: int = 0  # 16-byte pieces between rows
    report: dict[str, int] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "element": ELEMENTS[self.anchors.rows.dtype],
            "arithmetic": self.arithmetic,
            "bytes": self.bytes,
            "least_sampled": self.least_sampled,
            "most_rows": self.most_rows,
            "cuts_off": self.cuts_off,
        }
        for name, side, keys in (
            ("anchor", self.anchors, self.anchor_keys),
            ("candidate", self.candidates, self.candidate_keys),
        ):
            given[name] = padded(side.rows, self.gap)
            given["width"] = given[name].shape[1] - self.gap * (16 // side.rows.element_size())
            given[f"first_{name}"] = side.first
            given[f"{name}_keys"] = None if keys is None else keys.numpy()
            given[f"{name}_ids"] = None if side.ids is None else side.ids.numpy()
            given[f"{name}_labels"] = None if side.labels is None else side.labels.values.numpy()
            given[f"{name}_offsets"] = None if side.labels is None else side.labels.offsets.numpy()
            given[f"{name}_caps"] = None if side.caps is None else side.caps.numpy()
        return given

    def mine(self, seed: int = 0) -> tuple[Tensor, Tensor | None]:
        results = simt.load("mining").run("mine", seed=seed, **self.arguments())
        names = ("blocks", "anchor_sample", "candidate_sample", "anchors_again", "candidates_again", "bytes")
        self.report = dict(zip(names, results["report"].tolist()))
        keys = [results.get(f"{name}_result") for name in ("anchor", "candidate")]
        by_row, by_column = (None if found is None else torch.from_numpy(found) for found in keys)
        assert by_row is not None
        return by_row, by_column

    def check(self, seed: int = 0) -> dict[str, int]:
        got = self.mine(seed)
        expected = plain.mine_tile(self.anchors, self.candidates, self.anchor_keys, self.candidate_keys)
        assert torch.equal(got[0], expected[0])
        assert (got[1] is None) == (expected[1] is None)
        if got[1] is not None and expected[1] is not None:
            assert torch.equal(got[1], expected[1])
        return self.report


def unit_rows(count: int, width: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1).to(dtype)


def make(
    n: int,
    m: int,
    width: int = 24,
    k: int = 5,
    candidate_k: int | None = 4,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    **options: Any,
) -> Case:
    return Case(
        Side(unit_rows(n, width, dtype, seed), first=7),
        Side(unit_rows(m, width, dtype, seed + 1), first=100),
        no_keys(n, k),
        None if candidate_k is None else no_keys(m, candidate_k),
        **options,
    )


def ragged(count: int, labels: int, seed: int) -> Ragged:
    """None to three labels a row, ascending; offsets that do not begin at 0."""
    generator = np.random.default_rng(seed)
    rows = [np.sort(generator.choice(labels, generator.integers(0, 4), replace=False)) for _ in range(count)]
    offsets = np.cumsum([2, *map(len, rows)])
    values = np.concatenate([[0, 0], *rows]).astype(np.int64)
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets))


@pytest.mark.parametrize(("dtype", "arithmetic"), EVERY_ARITHMETIC, ids=str)
@pytest.mark.parametrize(("n", "m", "width"), [(1, 1, 1), (33, 70, 24), (65, 129, 37), (130, 3, 8)])
def test_sizes(n: int, m: int, width: int, dtype: torch.dtype, arithmetic: int) -> None:
    make(n, m, width, dtype=dtype, arithmetic=arithmetic).check()


@pytest.mark.parametrize("k", [1, 2, 7, 64, 100, 130])
def test_depths(k: int) -> None:
    """Also longer than there are candidates."""
    make(20, 100, k=k, candidate_k=max(1, k // 3)).check()


@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
def test_rows_with_gaps_between_them(dtype: torch.dtype) -> None:
    make(30, 50, width=13, dtype=dtype, gap=3).check()


def test_rows_too_long_to_be_converted() -> None:
    make(3, 5, width=8200).check()


def test_one_direction() -> None:
    case = make(70, 90, candidate_k=None)
    case.check()


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("known", ["ids", "labels", "both"])
def test_pairs_that_belong_together_are_left_out(known: str, sampled: bool) -> None:
    case = make(80, 150, k=6, least_sampled=64 if sampled else PLENTY, most_rows=30)
    for name, count in (("anchors", 80), ("candidates", 150)):
        side = getattr(case, name)
        if known != "labels":
            side = replace(side, ids=torch.arange(count) % 9 - 4 + (1 << 40))
        if known != "ids":
            side = replace(side, labels=ragged(count, 12, seed=count))
        setattr(case, name, side)
    assert (case.check()["anchor_sample"] > 0) == sampled


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("dtype", "arithmetic"), EVERY_ARITHMETIC, ids=str)
def test_caps(dtype: torch.dtype, arithmetic: int, sampled: bool) -> None:
    """Caps of exactly a score, between scores, below and above all of them."""
    case = make(70, 140, k=6, dtype=dtype, arithmetic=arithmetic, least_sampled=64 if sampled else PLENTY, most_rows=40)
    exact = plain.exact_scores(
        case.anchors.rows.double(), case.candidates.rows.double(), torch.full((70, 1), 1e-12, dtype=torch.float64)
    )
    anchor_caps = exact[:, 3].clone()
    anchor_caps[::5] = torch.tensor([-torch.inf, torch.inf, 0.1, -2.0]).repeat(4)[:14]
    candidate_caps = exact[5].clone()
    candidate_caps[::7] = torch.nextafter(candidate_caps[::7], torch.tensor(-2.0))
    case.anchors = replace(case.anchors, caps=anchor_caps)
    case.candidates = replace(case.candidates, caps=candidate_caps)
    case.check()


@pytest.mark.parametrize(("dtype", "arithmetic"), EVERY_ARITHMETIC, ids=str)
def test_sampled_limits(dtype: torch.dtype, arithmetic: int) -> None:
    case = make(300, 700, k=8, candidate_k=5, dtype=dtype, arithmetic=arithmetic, least_sampled=128)
    report = case.check()
    assert report["anchor_sample"] > 0 and report["candidate_sample"] > 0
    assert report["anchors_again"] < 30 and report["candidates_again"] < 70


def test_large_tiles_of_both_sides() -> None:
    """128 × 128 tiles: enough of them to be chosen, and lists of which few are full of hits."""
    case = make(128 * 11, 128 * 12 - 5, width=8, k=3, candidate_k=2, least_sampled=64)
    case.check()


@pytest.mark.parametrize("rows", [1, 17, 64])
def test_blocks_of_anchors(rows: int) -> None:
    case = make(130, 200, k=6, candidate_k=9, most_rows=rows, least_sampled=64)
    assert case.check()["blocks"] == -(-130 // rows)


def test_little_memory() -> None:
    case = make(150, 300, k=8, candidate_k=8, bytes=1 << 16, least_sampled=64)
    report = case.check()
    assert report["blocks"] > 1
    assert report["bytes"] <= 150 * 5 * 300  # a few lines, or the sample


TIES = {
    "all equal": lambda rows: rows[:1].expand_as(rows).contiguous(),
    "three kinds": lambda rows: rows[torch.arange(len(rows)) % 3],
    "near": lambda rows: rows[:1] + torch.randn(rows.shape, generator=torch.Generator().manual_seed(5)) * 1e-6,
}


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(("dtype", "arithmetic"), EVERY_ARITHMETIC, ids=str)
def test_ties_by_the_hundred_overflow_and_are_mined_again(ties: str, dtype: torch.dtype, arithmetic: int) -> None:
    case = make(40, 900, k=6, candidate_k=3, dtype=torch.float32, arithmetic=arithmetic, least_sampled=64)
    case.candidates = replace(case.candidates, rows=TIES[ties](case.candidates.rows).to(dtype))
    case.anchors = replace(case.anchors, rows=case.anchors.rows.to(dtype))
    assert case.check()["anchors_again"] > 0


def test_caps_among_scores_that_only_the_sum_can_tell_apart() -> None:
    """Whoever counted pairs just above the cap among the k would drop others below it."""
    case = make(12, 300, k=9, candidate_k=2, dtype=torch.float32)
    near = case.anchors.rows.mean(0) + torch.randn(300, 24, generator=torch.Generator().manual_seed(1)) * 1e-5
    case.candidates = replace(case.candidates, rows=near)
    exact = plain.exact_scores(case.anchors.rows.double(), near.double(), torch.ones(12, 1, dtype=torch.float64))
    case.anchors = replace(case.anchors, caps=exact.sort(dim=1).values[:, 20])
    case.candidates = replace(case.candidates, caps=exact.sort(dim=0).values[3])
    case.check()


@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
@pytest.mark.parametrize("width", [37, 64])
def test_the_order_of_the_sum(width: int, dtype: torch.dtype) -> None:
    """Terms that cancel, of which each order leaves other bits."""
    case = make(30, 40, width=width, dtype=dtype, k=40, arithmetic=1)
    for name in ("anchors", "candidates"):
        side = getattr(case, name)
        generator = torch.Generator().manual_seed(len(name))
        exponents = torch.randint(-12, 12, side.rows.shape, generator=generator)
        setattr(case, name, replace(side, rows=(side.rows.double() * 2.0 ** (2 * exponents)).to(dtype)))
    assert case.anchors.rows.isfinite().all() or dtype == torch.float16
    for name in ("anchors", "candidates"):
        side = getattr(case, name)
        setattr(case, name, replace(side, rows=side.rows.nan_to_num(posinf=60000, neginf=-60000)))
    case.check()


@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
def test_tensor_cores_that_cut_sums_off(dtype: torch.dtype) -> None:
    """Scores closer than what is cut off, of rows of positive terms, where all of it adds up."""
    case = make(20, 300, width=512, dtype=torch.float32, k=12, candidate_k=4, least_sampled=64, cuts_off=True)
    middle = case.anchors.rows[0].abs()
    rows = middle + torch.randn(300, 512, generator=torch.Generator().manual_seed(3)) * 1e-4
    case.candidates = replace(case.candidates, rows=rows.to(dtype))
    case.anchors = replace(case.anchors, rows=case.anchors.rows.abs().to(dtype))
    case.check()


def test_ties_of_thousands_in_panels() -> None:
    """More ties than a panel holds, and little memory."""
    case = make(3, 5000, width=8, k=10, candidate_k=1, bytes=1 << 16, least_sampled=64)
    rows = case.candidates.rows.clone()
    rows[::2] = rows[0]
    case.candidates = replace(case.candidates, rows=rows)
    assert case.check()["anchors_again"] > 0


@pytest.mark.parametrize("descending", [False, True])
def test_sorted_candidates(descending: bool) -> None:
    case = make(40, 600, k=6, candidate_k=6, least_sampled=64)
    order = (case.candidates.rows.float() @ case.anchors.rows[0].float()).argsort(descending=descending)
    case.candidates = replace(case.candidates, rows=case.candidates.rows[order])
    case.check()


def test_a_limit_that_was_too_high_is_noticed() -> None:
    """The best candidates lie where the sample's stride meets them, and fewer of them exist than a list holds."""
    k, count = 60, 2000
    sample = make(1, count, width=8, k=k, candidate_k=None, least_sampled=64).check()["anchor_sample"]
    stride = count // sample
    first = (count - (sample - 1) * stride - 1) // 2
    chosen = torch.arange(first, count, stride)[:50]
    case = make(30, count, width=8, k=k, candidate_k=None, least_sampled=64)
    middle = torch.ones(8)
    rows = -middle + 0.1 * case.candidates.rows.float()
    rows[chosen] *= -1
    case.candidates = replace(case.candidates, rows=rows.bfloat16())
    case.anchors = replace(case.anchors, rows=(middle + 0.1 * case.anchors.rows.float()).bfloat16())
    assert case.check()["anchors_again"] == 30


@pytest.mark.parametrize("sampled", [False, True])
def test_tiles_in_any_order_give_the_same_keys(sampled: bool) -> None:
    case = make(90, 160, k=7, candidate_k=5, least_sampled=16 if sampled else PLENTY)
    case.anchors = replace(case.anchors, ids=torch.arange(90) // 2)
    case.candidates = replace(case.candidates, ids=torch.arange(160) // 4)
    whole = plain.mine_tile(case.anchors, case.candidates, case.anchor_keys, case.candidate_keys)
    pieces = list(itertools.product([(0, 40), (40, 90)], [(0, 33), (33, 100), (100, 160)]))
    assert case.candidate_keys is not None
    for order in ([0, 1, 2, 3, 4, 5], [5, 0, 3, 1, 4, 2]):
        rows, columns = case.anchor_keys.clone(), case.candidate_keys.clone()
        for (top, bottom), (left, right) in (pieces[number] for number in order):
            part = replace(
                case, anchors=case.anchors.part(top, bottom), candidates=case.candidates.part(left, right),
                anchor_keys=rows[top:bottom], candidate_keys=columns[left:right],
            )  # fmt: skip
            found = part.mine()
            rows[top:bottom] = found[0]
            assert found[1] is not None
            columns[left:right] = found[1]
        assert torch.equal(rows, whole[0]) and whole[1] is not None and torch.equal(columns, whole[1])


def test_full_ones_that_nothing_beats_stay() -> None:
    case = make(40, 80)
    best = plain.keys.pack(torch.full((40, 5), 9.0), torch.arange(5)[None] + 10_000)
    case.anchor_keys = best.sort(dim=1, descending=True).values
    assert torch.equal(case.mine()[0], case.anchor_keys)
    case.check()


def test_zero_rows_and_signed_zeros() -> None:
    case = make(20, 60)
    case.anchors.rows[3] = 0
    case.candidates.rows[::7] = -0.0
    case.check()


@pytest.mark.parametrize("scale", [1e-20, 1e-30, 1e15])
@pytest.mark.parametrize("arithmetic", [1, 2])
def test_rows_of_any_length(scale: float, arithmetic: int) -> None:
    case = make(40, 90, dtype=torch.float32, arithmetic=arithmetic)
    case.candidates = replace(case.candidates, rows=case.candidates.rows * scale)
    case.check()


@pytest.mark.parametrize("sampled", [False, True])
def test_schedules_do_not_matter(sampled: bool) -> None:
    case = make(70, 200, k=6, least_sampled=64 if sampled else PLENTY)
    case.candidates.rows[50:120] = case.candidates.rows[50]
    first = case.mine()
    for seed in range(1, max(2, simt.SCHEDULES // 4)):
        again = case.mine(seed)
        assert torch.equal(again[0], first[0])
        assert again[1] is not None and first[1] is not None and torch.equal(again[1], first[1])


def test_missing_keys_come_last() -> None:
    case = make(10, 6, k=9)
    keys = case.mine()[0]
    assert (keys[:, 6:] == NO_KEY).all() and (keys[:, :6] != NO_KEY).all()
