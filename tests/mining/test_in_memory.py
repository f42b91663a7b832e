"""Mining against its definition: float64 scores, rounded to float32, highest first, ties by lower index."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from aoq_ext.mining import HardNegatives, api, fused, mine_hard_negatives, plain, tile
from aoq_ext.mining.plain import ordered_dot
from aoq_ext.mining.plan import MiningPlan


@pytest.fixture(params=["fused", "plain"], autouse=True)
def path(request, monkeypatch) -> str:
    """Every test runs with the operator and with plain PyTorch in its place."""
    if request.param == "plain":
        monkeypatch.setattr(tile, "has_kernel", lambda *_: False)
    return request.param


fused_only = pytest.mark.parametrize("path", ["fused"], indirect=True)


def defined_scores(anchors: Tensor, candidates: Tensor) -> Tensor:
    """Scores (N, M) float32 by the definition: sixteen float64 partial sums, folded in halves, then rounded."""
    pad = ((0, 0), (0, -anchors.shape[1] % 16))
    x = np.pad(anchors.double().numpy(), pad).reshape(len(anchors), -1, 16)
    y = np.pad(candidates.double().numpy(), pad).reshape(len(candidates), -1, 16)
    scores = np.empty((len(anchors), len(candidates)), dtype=np.float32)
    for row, anchor in zip(scores, x, strict=True):
        sums = np.zeros((len(candidates), 16))
        for step in range(y.shape[1]):
            sums += anchor[step] * y[:, step]
        for half in (8, 4, 2, 1):
            sums = sums[:, :half] + sums[:, half:]
        row[:] = sums[:, 0]
    return torch.from_numpy(scores) + 0.0


def brute_force(anchors: Tensor, candidates: Tensor, k: int, anchor_ids=None, candidate_ids=None):
    """All scores, and a stable sort of every row."""
    scores = defined_scores(anchors, candidates)
    if anchor_ids is not None:
        scores.masked_fill_(anchor_ids[:, None] == candidate_ids[None, :], -torch.inf)
    scores = torch.cat([scores, torch.full((len(anchors), k), -torch.inf)], dim=1)
    scores, indices = scores.sort(dim=1, descending=True, stable=True)
    scores, indices = scores[:, :k], indices[:, :k]
    return indices.masked_fill(scores == -torch.inf, -1), scores


def assert_same(result: HardNegatives, expected: tuple[Tensor, Tensor]) -> None:
    assert result.indices.dtype == torch.int64
    assert result.scores.dtype == torch.float32
    assert torch.equal(result.indices, expected[0])
    assert torch.equal(result.scores, expected[1])


def assert_nothing(result: HardNegatives) -> None:
    assert (result.indices == -1).all()
    assert (result.scores == -torch.inf).all()


def unit_rows(rows: int, width: int, seed: int) -> Tensor:
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def with_near_ties(rows: int, width: int, seed: int) -> Tensor:
    """Unit rows of which a third are copies and a third differ from another by one ulp in one place."""
    embeddings = unit_rows(rows, width, seed)
    third = rows // 3
    embeddings[third : 2 * third] = embeddings[:third]
    embeddings[2 * third : 3 * third] = embeddings[:third]
    nudged = embeddings[2 * third : 3 * third, 0]
    nudged.copy_(torch.nextafter(nudged, torch.ones(())))
    return embeddings


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


SHAPES = [  # N, M, D, k
    (1, 1, 1, 1),
    (5, 7, 3, 1),
    (33, 257, 17, 10),
    (40, 1000, 64, 300),
    (64, 4100, 100, 60),
    (3, 20, 256, 20),
    (1030, 150, 8, 4),
]


@pytest.mark.parametrize(("n", "m", "d", "k"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_brute_force(n, m, d, k, dtype):
    anchors, candidates = unit_rows(n, d, 1).to(dtype), with_near_ties(m, d, 2).to(dtype)
    assert_same(mine_hard_negatives(anchors, candidates, k), brute_force(anchors, candidates, k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float64_oracle_without_a_defined_order(dtype):
    """A plain float64 product agrees wherever it can tell two scores apart."""
    anchors, candidates = unit_rows(50, 128, 3).to(dtype), unit_rows(3000, 128, 4).to(dtype)
    result = mine_hard_negatives(anchors, candidates, 100)
    truth = anchors.double() @ candidates.double().T
    assert torch.allclose(result.scores.double(), truth.gather(1, result.indices), rtol=2**-23, atol=0)
    kth = truth.topk(101).values
    assert (truth.gather(1, result.indices).amin(dim=1) >= kth[:, 99] - 2**-24).all()


def test_faiss_finds_the_same():
    """An independent search agrees wherever float32 tells two scores apart."""
    anchors, candidates = unit_rows(50, 64, 33), unit_rows(4000, 64, 34)
    index = faiss.IndexFlatIP(64)
    index.add(candidates.numpy())
    scores, indices = (torch.from_numpy(part) for part in index.search(anchors.numpy(), 101))
    result = mine_hard_negatives(anchors, candidates, 100)
    torch.testing.assert_close(result.scores, scores[:, :100], rtol=0, atol=1e-6)
    clear = (scores[:, :100] - scores[:, 1:] > 1e-6) & torch.nn.functional.pad(
        scores[:, :99] - scores[:, 1:100] > 1e-6, (1, 0), value=True
    )
    assert clear.float().mean() > 0.9
    assert torch.equal(result.indices[clear], indices[:, :100][clear])


@pytest.mark.parametrize("groups", [1, 2, 7, 40, 10_000])
def test_ids_are_excluded_before_selection(groups):
    anchors, candidates = unit_rows(40, 16, 5), with_near_ties(90, 16, 6)
    generator = torch.Generator().manual_seed(7)
    ids = [torch.randint(0, groups, (rows,), generator=generator) for rows in (40, 90)]
    for dtype in (torch.int64, torch.int32):
        own, other = (part.to(dtype) for part in ids)
        result = mine_hard_negatives(anchors, candidates, 60, own, other)
        assert_same(result, brute_force(anchors, candidates, 60, own, other))
    if groups == 1:
        assert_nothing(result)


def test_excluded_candidates_may_dominate():
    """All the best candidates are the anchor's own; the k best others are still found."""
    anchors = unit_rows(6, 32, 8)
    candidates = torch.cat([anchors.repeat_interleave(50, dim=0), unit_rows(40, 32, 9)])
    own = torch.arange(6)
    other = torch.cat([own.repeat_interleave(50), torch.full((40,), -1)])
    result = mine_hard_negatives(anchors, candidates, 30, own, other)
    assert_same(result, brute_force(anchors, candidates, 30, own, other))
    assert (result.indices >= 0).all()


def test_extreme_ids():
    limit = torch.iinfo(torch.int64)
    own = torch.tensor([limit.max, limit.min, -1])
    other = torch.tensor([limit.min, -1, limit.max, 0])
    result = mine_hard_negatives(torch.ones(3, 2), torch.ones(4, 2), 4, own, other)
    assert result.indices.tolist() == [[0, 1, 3, -1], [1, 2, 3, -1], [0, 2, 3, -1]]


@pytest.mark.parametrize("value", [1.0, 0.0, -1.0, 1e-20, 1e-30])
def test_equal_scores_come_by_index(value):
    """A collapsed model: thousands of equal scores, more than any buffer holds."""
    anchors, candidates = torch.full((3, 24), value), torch.full((9000, 24), 1.0)
    result = mine_hard_negatives(anchors, candidates, 50)
    assert torch.equal(result.indices, torch.arange(50).expand(3, 50))
    candidates[8000:] *= 2.0 if value > 0 else 0.5
    expected = brute_force(anchors, candidates, 50)
    assert_same(mine_hard_negatives(anchors, candidates, 50), expected)


def test_zeros_of_either_sign_are_equal():
    anchors = torch.tensor([[1.0], [-1.0]])
    candidates = torch.tensor([[-0.0], [0.0], [-0.0], [0.0]])
    result = mine_hard_negatives(anchors, candidates, 4)
    assert result.indices.tolist() == [[0, 1, 2, 3]] * 2
    assert not torch.signbit(result.scores).any()


def test_ascending_and_descending_scores():
    """The worst orders for a running threshold: every candidate enters, or none after the first."""
    anchors = torch.tensor([[1.0], [-1.0]])
    candidates = torch.arange(-3000.0, 3001.0)[:, None] / 4096
    result = mine_hard_negatives(anchors, candidates, 100)
    assert torch.equal(result.indices[0], torch.arange(6000, 5900, -1))
    assert torch.equal(result.indices[1], torch.arange(100))


def test_scores_that_float32_sums_get_wrong():
    """Cancellation: large terms hide the small one that decides; only float64 sums order these."""
    generator = torch.Generator().manual_seed(10)
    big = torch.rand(500, 15, generator=generator) * 1e4
    small = torch.rand(500, 2, generator=generator) * 1e-3
    candidates = torch.cat([big, small, -big], dim=1)
    anchors = torch.ones(4, 32)
    result = mine_hard_negatives(anchors, candidates, 20)
    assert_same(result, brute_force(anchors, candidates, 20))
    truth = small.double().sum(dim=1).topk(20)
    assert torch.equal(result.indices[0], truth.indices)


def test_norms_of_very_different_sizes():
    generator = torch.Generator().manual_seed(11)
    scale = 10.0 ** torch.randint(-12, 13, (3000, 1), generator=generator)
    candidates = unit_rows(3000, 40, 12) * scale
    anchors = unit_rows(20, 40, 13) * scale[:20]
    assert_same(mine_hard_negatives(anchors, candidates, 200), brute_force(anchors, candidates, 200))


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
def test_empty(n, m):
    ids = (torch.arange(n), torch.arange(m))
    for extra in ((), ids):
        result = mine_hard_negatives(torch.zeros(n, 4), torch.zeros(m, 4), 3, *extra)
        assert result.indices.shape == result.scores.shape == (n, 3)
        assert_nothing(result)
    assert "no negatives" in repr(result)


def test_more_wanted_than_available():
    anchors, candidates = unit_rows(4, 8, 14), unit_rows(6, 8, 15)
    result = mine_hard_negatives(anchors, candidates, 9)
    assert_same(result, brute_force(anchors, candidates, 9))
    assert (result.indices[:, 6:] == -1).all()
    assert "4 anchors with fewer than 9" in repr(result)


def test_strides_do_not_matter():
    anchors, candidates = unit_rows(30, 24, 16), unit_rows(70, 24, 17)
    expected = mine_hard_negatives(anchors, candidates, 12)
    for spread in (
        lambda x: x.T.contiguous().T,
        lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
        lambda x: torch.cat([x, x])[: len(x)],
        lambda x: torch.cat([torch.zeros(1), x.flatten()])[1:].view_as(x),
        lambda x: x.repeat_interleave(3, dim=0)[::3],
    ):
        result = mine_hard_negatives(spread(anchors), spread(candidates), 12)
        assert_same(result, (expected.indices, expected.scores))
    broadcast = mine_hard_negatives(anchors[:1].expand(5, -1), candidates, 12)
    assert torch.equal(broadcast.indices, expected.indices[:1].expand(5, -1))


def test_numbers_and_ids_may_be_numpys():
    anchors, candidates, ids = unit_rows(6, 8, 35), unit_rows(20, 8, 36), (np.arange(6), np.arange(20) % 7)
    result = mine_hard_negatives(anchors, candidates, np.int64(3), *ids, margin=np.float32(0.1), skip=np.int32(1))
    expected = mine_hard_negatives(
        anchors, candidates, 3, *map(torch.from_numpy, ids), margin=float(np.float32(0.1)), skip=1
    )
    assert_same(result, (expected.indices, expected.scores))


@fused_only
def test_flushed_subnormals_change_nothing(threads):
    """The mode is one of threads; scores are defined without it."""
    generator = torch.Generator().manual_seed(37)
    anchors, candidates = (torch.randn(rows, 16, generator=generator) * 1e-20 for rows in (400, 300))
    expected = brute_force(anchors, candidates, 5)
    assert (expected[1].abs() < torch.finfo(torch.float32).tiny).any()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    try:
        for count in (1, 2):
            threads(count)
            assert_same(mine_hard_negatives(anchors, candidates, 5), expected)
    finally:
        torch.set_flush_denormal(False)


def test_rows_that_share_no_dimension():
    """Scores of exactly zero by the thousand, in float64 too."""
    anchors, candidates = torch.eye(40, 200).double().repeat(10, 1), torch.eye(200).double().flip(0).repeat(10, 1)
    assert_same(mine_hard_negatives(anchors, candidates, 30), brute_force(anchors, candidates, 30))


def test_no_gradient_and_repr():
    anchors = unit_rows(3, 4, 18).requires_grad_()
    result = mine_hard_negatives(anchors, unit_rows(5, 4, 19), 2)
    assert not result.scores.requires_grad
    assert repr(result).startswith("HardNegatives(anchors=3, k=2, hardest score ")


def test_ordered_dot_is_the_definition():
    x, y = unit_rows(5, 37, 20), unit_rows(5, 37, 21)
    assert torch.equal(ordered_dot(x.double(), y.double()).float(), defined_scores(x, y).diagonal())


EYE, ROW = torch.eye(4), torch.arange(4)
NAN, INF, LONG = EYE.clone(), EYE.clone(), EYE.clone()
NAN[:, 0] = torch.nan
INF[2, 2] = torch.inf
LONG[0, 0] = 1e30


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]], EYE, 1), TypeError, "anchors must be a tensor, a numpy array or the path of a file, got list"),
        ((EYE, EYE.long(), 1), TypeError, "candidates must be float32, float16, bfloat16 or float64, got int64"),
        ((EYE[0], EYE, 1), ValueError, r"anchors must have shape \(rows, D\) with D ≥ 1, got \(4,\)"),
        ((EYE[:, :0], EYE[:, :0], 1), ValueError, r"anchors must have shape \(rows, D\) with D ≥ 1, got \(4, 0\)"),
        ((EYE, EYE[:, :3], 1), ValueError, "candidates must have the D of anchors, 4, got 3"),
        ((EYE, EYE.half(), 1), TypeError, "candidates must have the dtype of anchors, float32, got float16"),
        ((EYE, EYE.to("meta"), 1), ValueError, "candidates must be on the device of anchors, cpu, got meta"),
        ((EYE, EYE, 0), ValueError, "k must be at least 1, got 0"),
        ((EYE, EYE, 1.5), TypeError, "k must be an int, got float"),
        ((EYE, EYE, True), TypeError, "k must be an int, got bool"),
        ((EYE, EYE, 1, ROW), TypeError, "candidate_ids must be given with anchor_ids, got None"),
        ((EYE, EYE, 1, None, ROW), TypeError, "anchor_ids must be given with candidate_ids, got None"),
        ((EYE, EYE, 1, ROW.float(), ROW), TypeError, "anchor_ids must be an integer tensor, got float32"),
        ((EYE, EYE, 1, ROW, ROW[:3]), ValueError, r"candidate_ids must have one integer per row of.*got shape \(3,\)"),
        ((NAN, EYE, 1), ValueError, "anchors must be finite, got NaN or infinity in rows 0, 1, 2, 3"),
        ((EYE, INF, 1), ValueError, "candidates must be finite, got NaN or infinity in row 2"),
        ((EYE, torch.full((9, 4), torch.nan), 1), ValueError, "in rows 0, 1, 2, 3, 4 and 4 more"),
        ((EYE.to("meta"), EYE.to("meta"), 1), ValueError, "anchors must hold numbers, got a tensor on the meta device"),
        ((EYE, EYE, 1, ROW.to("meta"), ROW), ValueError, "anchor_ids must hold numbers"),
        ((LONG, LONG, 1), ValueError, "must have scores that fit float32, got rows with norms up to 1e.30 and 1e.30"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        mine_hard_negatives(*arguments)


@pytest.mark.parametrize("sizes", [(1, 1, 600), (50, 7, 33), (20, 20, 600), (13, 4, 1), (64, 64, 1024)])
def test_the_plan_does_not_matter(monkeypatch, sizes):
    anchors, candidates = unit_rows(50, 40, 22), with_near_ties(600, 40, 23)
    ids = (torch.arange(50) % 11, torch.arange(600) % 13)
    options = {"direction": "both", "k_reverse": 20, "margin": -0.3, "skip": 2}
    expected = mine_hard_negatives(anchors, candidates, 70, *ids, **options)
    monkeypatch.setattr(plain, "PANEL_ROWS", 16)
    monkeypatch.setattr(plain, "PANEL_COLUMNS", 50)
    monkeypatch.setattr(api, "make_plan", lambda *_: MiningPlan(*sizes, 0))
    result = mine_hard_negatives(anchors, candidates, 70, *ids, **options)
    assert_same(result, (expected.indices, expected.scores))
    assert_same(result.reverse, (expected.reverse.indices, expected.reverse.scores))


@fused_only
def test_threads_do_not_matter(threads):
    anchors, candidates = unit_rows(90, 48, 24), with_near_ties(3000, 48, 25)
    ids = (torch.arange(90) % 11, torch.arange(3000) % 13)
    expected = brute_force(anchors, candidates, 40, *ids)
    for count in (1, 2, 3):
        threads(count)
        assert_same(mine_hard_negatives(anchors, candidates, 40, *ids), expected)


@fused_only
def test_reduced_product_precision_changes_nothing():
    anchors, candidates = unit_rows(60, 64, 30), with_near_ties(2000, 64, 31)
    expected = mine_hard_negatives(anchors, candidates, 25)
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        assert fused._matmul_input_rounding() == 2.0**-8
        assert_same(mine_hard_negatives(anchors, candidates, 25), (expected.indices, expected.scores))
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    assert fused._matmul_input_rounding() == 0.0
