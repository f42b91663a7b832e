"""Retrieval metrics against numbers worked out by hand and against a brute-force count."""

from __future__ import annotations

import doctest
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from aoq_ext.metrics import RetrievalRanks, ranking, ranks_from_embeddings, retrieval_metrics, retrieval_ranks

KEYS = {f"{way}_{name}" for way in ("i2t", "t2i") for name in ("r1", "r5", "r10", "medr", "meanr")} | {"rsum"}


def from_scores(scores: list[list[float]], owners: list[int], **options) -> dict[str, float]:
    """Metrics of embeddings whose scores are exactly ``scores`` (N, T): one-hot images, columns as texts."""
    table = torch.tensor(scores)
    return retrieval_metrics(torch.eye(len(scores)), table.T.contiguous(), torch.tensor(owners), **options)


def brute_force(images, texts, owners, folds=1) -> dict[str, float]:
    """The definition, one comparison at a time, in exact Python arithmetic."""
    size = len(images) // folds
    result = dict.fromkeys(KEYS, 0.0)
    for fold in range(folds):
        rows = range(fold * size, (fold + 1) * size)
        columns = [t for t, owner in enumerate(owners) if owner in rows]
        score = {(i, t): sum(a * b for a, b in zip(images[i], texts[t], strict=True)) for i in rows for t in columns}
        i2t = []
        for i in rows:
            best = max(score[i, t] for t in columns if owners[t] == i)
            i2t.append(1 + sum(score[i, t] >= best for t in columns if owners[t] != i))
        t2i = [1 + sum(score[i, t] >= score[owners[t], t] for i in rows if i != owners[t]) for t in columns]
        for way, ranks in (("i2t", i2t), ("t2i", t2i)):
            for level in (1, 5, 10):
                recall = 100.0 * sum(rank <= level for rank in ranks) / len(ranks)
                result[f"{way}_r{level}"] += recall / folds
                result["rsum"] += recall / folds
            ordered = sorted(ranks)
            median = (ordered[(len(ranks) - 1) // 2] + ordered[len(ranks) // 2]) / 2
            result[f"{way}_medr"] += math.floor(median) / folds
            result[f"{way}_meanr"] += sum(ranks) / len(ranks) / folds
    return result


def small_integers(rows: int, width: int, seed: int) -> torch.Tensor:
    """Embeddings whose dot products are exact in every dtype and tie often."""
    return torch.randint(-2, 3, (rows, width), generator=torch.Generator().manual_seed(seed)).float()


def ragged_owners(images: int, texts: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    owners = torch.cat([torch.arange(images), torch.randint(0, images, (texts - images,), generator=generator)])
    return owners[torch.randperm(texts, generator=generator)]


def test_golden_two_directions():
    #        texts:  0    1    2    3    owners 0, 0, 1, 2
    scores = [
        [0.5, 0.9, 0.7, 0.1],  # best own 0.9, nobody ahead: rank 1
        [0.8, 0.6, 0.4, 0.2],  # own 0.4 behind 0.8 and 0.6: rank 3
        [0.3, 0.7, 0.9, 0.6],  # own 0.6 behind 0.7 and 0.9: rank 3
    ]  # column ranks: 0.5 behind 0.8: 2; 0.9 first: 1; 0.4 behind 0.7 and 0.9: 3; 0.6 first: 1
    result = from_scores(scores, [0, 0, 1, 2])
    assert set(result) == KEYS
    assert result == {
        "i2t_r1": pytest.approx(100 / 3),
        "i2t_r5": 100.0,
        "i2t_r10": 100.0,
        "i2t_medr": 3.0,
        "i2t_meanr": pytest.approx(7 / 3),
        "t2i_r1": 50.0,
        "t2i_r5": 100.0,
        "t2i_r10": 100.0,
        "t2i_medr": 1.0,  # ranks 1, 1, 2, 3: the median 1.5, floored
        "t2i_meanr": 1.75,
        "rsum": pytest.approx(100 / 3 + 450),
    }


def test_golden_recall_levels():
    """Twelve images; image i scores i wrong texts above its own, so the ranks are 1 to 12."""
    scores = [[2.0 if j < i else 1.0 if j == i else 0.0 for j in range(12)] for i in range(12)]
    result = from_scores(scores, list(range(12)))
    assert result["i2t_r1"] == pytest.approx(100 / 12)
    assert result["i2t_r5"] == pytest.approx(500 / 12)
    assert result["i2t_r10"] == pytest.approx(1000 / 12)
    assert (result["i2t_medr"], result["i2t_meanr"]) == (6.0, 6.5)


def test_other_own_texts_do_not_count():
    """An image's second text may stand anywhere, also level with the first, without changing the image's rank."""
    for second in (0.9, 0.8, -1.0):
        assert from_scores([[0.9, second, 0.7], [0.0, 0.0, 1.0]], [0, 0, 1])["i2t_meanr"] == 1.0


def test_ties_count_against_the_query():
    collapsed = torch.ones(4, 8)
    result = retrieval_metrics(collapsed, collapsed[[0, 0, 1, 2, 3]], torch.tensor([0, 0, 1, 2, 3]))
    assert result["i2t_meanr"] == (4 + 3 * 5) / 4
    assert result["t2i_meanr"] == 4.0
    assert result["i2t_r1"] == result["t2i_r1"] == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_duplicates_tie_wherever_they_stand(dtype, monkeypatch):
    """A wrong text equal to the right one is ahead of it at any position and in any panel."""
    monkeypatch.setattr(ranking, "_PANEL_SCORES", 7 * 90)
    monkeypatch.setattr(ranking, "_PANEL_ELEMENTS", 33 * 13)
    torch.manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(45, 33), dim=1).to(dtype)
    ranks = retrieval_ranks(texts, torch.cat([texts, texts]), torch.arange(45), torch.arange(90))
    assert ranks.tolist() == [2] * 45


def test_half_precision_is_not_scored_in_half_precision():
    """The two scores differ by 2**-14, which bfloat16 and float16 both lose next to 1."""
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    images[0, 1] = 2.0**-7
    texts = torch.tensor([[1.0, 2.0**-7], [1.0, 0.0]])
    for dtype in (torch.float16, torch.bfloat16):
        result = retrieval_metrics(images.to(dtype), texts.to(dtype), torch.tensor([0, 1]))
        assert result["i2t_meanr"] == 1.5  # image 0 has rank 1; image 1 scores 2**-7 against its own 0


def test_float64_is_compared_in_float64():
    gap = 2.0**-40
    images = torch.eye(2, dtype=torch.float64)
    texts = torch.tensor([[1.0 + gap, 0.0], [1.0, 1.0]], dtype=torch.float64)
    owners = torch.tensor([0, 1])
    assert retrieval_metrics(images, texts, owners)["i2t_r1"] == 100.0
    assert retrieval_metrics(images.float(), texts.float(), owners)["i2t_r1"] == 50.0


@pytest.mark.parametrize("folds", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("panel_scores", [1, 50, 1 << 24])
def test_brute_force_on_ragged_shuffled_texts(folds, dtype, panel_scores, monkeypatch):
    monkeypatch.setattr(ranking, "_PANEL_SCORES", panel_scores)
    monkeypatch.setattr(ranking, "_PANEL_ELEMENTS", 4 * 9)
    images, texts, owners = small_integers(12, 4, 1), small_integers(31, 4, 2), ragged_owners(12, 31, 3)
    result = retrieval_metrics(images.to(dtype), texts.to(dtype), owners, folds=folds)
    assert result == pytest.approx(brute_force(images.tolist(), texts.tolist(), owners.tolist(), folds), rel=1e-12)


def test_text_order_and_strides_do_not_matter():
    images, texts, owners = small_integers(9, 6, 4), small_integers(20, 6, 5), ragged_owners(9, 20, 6)
    expected = retrieval_metrics(images, texts, owners)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(7))
    assert retrieval_metrics(images, texts[order], owners[order]) == expected
    assert retrieval_metrics(images.T.contiguous().T, texts.repeat(1, 2)[:, :6], owners.int()) == expected


def test_folds_average_independent_blocks():
    images, texts, owners = small_integers(10, 5, 8), small_integers(24, 5, 9), ragged_owners(10, 24, 10)
    result = retrieval_metrics(images, texts, owners, folds=2)
    halves = []
    for first in (0, 5):
        mine = (owners >= first) & (owners < first + 5)
        halves.append(retrieval_metrics(images[first : first + 5], texts[mine], owners[mine] - first))
    assert result == pytest.approx({key: (halves[0][key] + halves[1][key]) / 2 for key in KEYS})


def test_no_gradient_and_plain_floats():
    images = torch.eye(2, requires_grad=True)
    result = retrieval_metrics(images, torch.eye(2), torch.tensor([0, 1]))
    assert all(type(value) is float for value in result.values())
    assert result["rsum"] == 600.0


def test_ranks_without_a_right_candidate():
    ranks = retrieval_ranks(torch.eye(2), torch.eye(2), torch.tensor([0, 9]), torch.tensor([0, 1]))
    assert ranks.tolist() == [1, 3]


EYE, ROW = torch.eye(4), torch.arange(4)
NAN, INF = EYE.clone(), EYE.clone()
NAN[[1, 3], 0] = torch.nan
INF[2, 2] = -torch.inf


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ([[1.0]], EYE, ROW),
            TypeError,
            "image_embeddings must be a tensor, .* or the path of a file, got list",
        ),
        ((EYE, EYE.int(), ROW), TypeError, "text_embeddings must be float32.*got int32"),
        ((EYE[0], EYE, ROW), ValueError, r"image_embeddings must have shape \(rows, D\).*got \(4,\)"),
        ((EYE, EYE[:, :3], ROW), ValueError, "text_embeddings must have the D of image_embeddings, 4, got 3"),
        ((EYE, EYE.double(), ROW), TypeError, "text_embeddings must have the dtype of image_embeddings.*got float64"),
        ((EYE, EYE.to("meta"), ROW), ValueError, "text_embeddings must be on the device of image_embeddings.*got meta"),
        ((EYE, EYE, ROW.float()), TypeError, "text_image_index must be an integer tensor, got float32"),
        ((EYE, EYE, ROW[:3]), ValueError, r"text_image_index must have one integer per row of.*got shape \(3,\)"),
        ((EYE, EYE, ROW + 1), ValueError, r"text_image_index must be in \[0, 4\), got 4 in row 3"),
        ((EYE, EYE, ROW * 0), ValueError, "text_image_index must give every image a text, got none for rows 1, 2, 3"),
        ((EYE, EYE[:0], ROW[:0]), ValueError, "got none for rows 0, 1, 2, 3"),
        ((EYE[:0], EYE[:0], ROW[:0]), ValueError, "image_embeddings must hold at least one image"),
        ((EYE, EYE, ROW, 3), ValueError, "folds must be a positive divisor of the 4 images, got 3"),
        ((EYE, EYE, ROW, 0), ValueError, "folds must be a positive divisor of the 4 images, got 0"),
        ((EYE, EYE, ROW, 2.0), TypeError, "folds must be an int, got float"),
        ((NAN, EYE, ROW), ValueError, "image_embeddings must be finite, got NaN or infinity in rows 1, 3"),
        ((EYE, INF, ROW), ValueError, "text_embeddings must be finite, got NaN or infinity in row 2"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        retrieval_metrics(*arguments)


@pytest.mark.parametrize(("dtype", "count"), [(torch.int8, 128), (torch.uint8, 256)])
def test_owners_of_a_narrow_dtype(dtype: torch.dtype, count: int) -> None:
    rows = torch.eye(count)
    owners = torch.arange(count).to(dtype)
    assert retrieval_metrics(rows, rows, owners)["rsum"] == 600


def ranks_of(i2t: list[int], t2i: list[int], owners: list[int], folds: int = 1) -> RetrievalRanks:
    return RetrievalRanks(torch.tensor(i2t), torch.tensor(t2i), torch.tensor(owners), folds)


def test_bootstrap_is_a_function_of_its_seed() -> None:
    ranks = ranks_from_embeddings(
        [(small_integers(30, 4, 1), small_integers(90, 4, 2))], ragged_owners(30, 90, 0), folds=3
    )
    first = ranks.bootstrap(50, seed=7)
    assert first.keys() == ranks.metrics().keys()
    assert ranks.bootstrap(50, seed=7) == first
    assert ranks.bootstrap(50, seed=8) != first
    assert all(low <= high for low, high in first.values())
    narrow = ranks.bootstrap(50, level=0.5, seed=7)
    assert all(first[key][0] <= low <= high <= first[key][1] for key, (low, high) in narrow.items())


def test_a_resample_is_the_metrics_of_the_set_it_drew() -> None:
    """Two folds, texts of unequal number in any order: images are drawn in their fold and bring all their texts."""
    owners = ragged_owners(8, 21, 3)
    ranks = ranks_from_embeddings([(small_integers(8, 2, 1), small_integers(21, 2, 2))], owners, folds=2)
    for seed in range(5):
        drawn = torch.randint(4, (1, 2, 4), generator=torch.Generator().manual_seed(seed))
        images = (drawn[0] + torch.tensor([[0], [4]])).flatten()
        texts = [torch.nonzero(owners == image).flatten() for image in images]
        own = [torch.full_like(rows, position) for position, rows in enumerate(texts)]
        drawn_set = RetrievalRanks(ranks.i2t[images], ranks.t2i[torch.cat(texts)], torch.cat(own), folds=2)
        expected = {key: (pytest.approx(value), pytest.approx(value)) for key, value in drawn_set.metrics().items()}
        assert ranks.bootstrap(1, seed=seed) == expected


def test_chunks_of_resamples_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = ranks_from_embeddings([(small_integers(10, 4, 1), small_integers(30, 4, 2))], ragged_owners(10, 30, 0))
    whole = ranks.bootstrap(40)
    monkeypatch.setattr("aoq_ext.metrics.ranks._CHUNK_COUNTS", 31 * 7)
    assert ranks.bootstrap(40) == whole


def test_bootstrap_of_a_known_case() -> None:
    """A share p of n images is found: the interval is that of a binomial share, also for texts that stand together."""
    n, p = 2000, 0.3
    i2t = [1] * int(n * p) + [100] * (n - int(n * p))
    owners = [image for image in range(n) for _ in range(5)]
    intervals = ranks_of(i2t, [i2t[image] for image in owners], owners).bootstrap(2000)
    half = 100 * 1.96 * (p * (1 - p) / n) ** 0.5
    for key in ("i2t_r1", "t2i_r1"):
        assert intervals[key] == pytest.approx((100 * p - half, 100 * p + half), abs=0.15)
    assert intervals["rsum"] == pytest.approx((6 * (100 * p - half), 6 * (100 * p + half)), abs=0.9)
    assert intervals["i2t_medr"] == (100.0, 100.0)
    assert intervals["i2t_meanr"] == pytest.approx(
        (100 - 0.99 * (100 * p + half), 100 - 0.99 * (100 * p - half)), abs=0.15
    )


def test_paired_bootstrap_is_of_the_differences_on_the_same_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    owners = torch.arange(300).repeat_interleave(5)
    i2t, t2i = (torch.randint(1, 30, (count,), generator=generator) for count in (300, 1500))
    before = RetrievalRanks(i2t, t2i, owners)
    after = RetrievalRanks((i2t - 3).clamp(min=1), (t2i - 3).clamp(min=1), owners)
    low, high = after.bootstrap(2000, over=before)["rsum"]
    assert 0 < low < after.metrics()["rsum"] - before.metrics()["rsum"] < high
    for seed in range(3):
        one, other = (ranks.bootstrap(1, seed=seed)["rsum"][0] for ranks in (after, before))
        assert after.bootstrap(1, seed=seed, over=before)["rsum"] == pytest.approx((one - other, one - other))
    assert set(before.bootstrap(50, over=before).values()) == {(0.0, 0.0)}


def test_paired_bootstrap_wants_the_same_queries() -> None:
    ranks = ranks_of([1, 1], [1, 1], [0, 1])
    with pytest.raises(TypeError, match="over must be RetrievalRanks, got dict"):
        ranks.bootstrap(over={})
    with pytest.raises(ValueError, match=r"over must have as many .*, \(2, 2, 1\), got \(1, 2, 1\)"):
        ranks.bootstrap(over=ranks_of([1], [1, 1], [0, 0]))
    with pytest.raises(ValueError, match="over must have the same text_image_index"):
        ranks.bootstrap(over=ranks_of([1, 1], [1, 1], [1, 0]))


def test_bootstrap_degenerate_cases() -> None:
    perfect = ranks_of([1, 1], [1, 1, 1], [0, 0, 1]).bootstrap(20)
    assert perfect["rsum"] == (600.0, 600.0)
    assert perfect["t2i_medr"] == perfect["i2t_meanr"] == (1.0, 1.0)
    alone = ranks_of([3], [1, 7], [0, 0])
    assert alone.bootstrap(20) == {key: (value, value) for key, value in alone.metrics().items()}
    folds_of_one = ranks_of([3, 1], [1, 7], [0, 1], folds=2)
    assert folds_of_one.bootstrap(20) == {key: (value, value) for key, value in folds_of_one.metrics().items()}


def test_report_is_json_of_both() -> None:
    ranks = ranks_of([1, 4], [1, 2, 9], [0, 0, 1])
    assert ranks.report() == ranks.metrics()
    report = ranks.report(30, 0.9, 5)
    assert report["bootstrap"] == {"resamples": 30, "level": 0.9, "seed": 5}
    assert {key: tuple(ends) for key, ends in report["intervals"].items()} == ranks.bootstrap(30, 0.9, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"resamples": 0}, ValueError, "resamples must be at least 1, got 0"),
        ({"resamples": 2.5}, TypeError, "resamples must be an int, got float"),
        ({"level": 1.0}, ValueError, "level must be between 0 and 1, got 1.0"),
        ({"level": "high"}, TypeError, "level must be a float, got str"),
        ({"seed": -1}, ValueError, "seed must be from 0 to .* got -1"),
        ({"seed": None}, TypeError, "seed must be an int, got NoneType"),
    ],
)
def test_bootstrap_errors_name_the_argument(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ranks_of([1], [1], [0]).bootstrap(**arguments)


def test_the_page_runs() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", page, re.DOTALL))
    examples = doctest.DocTestParser().get_doctest(blocks, {}, "evaluation.md", "docs/evaluation.md", 0)
    assert len(examples.examples) > 10
    assert doctest.DocTestRunner().run(examples).failed == 0
