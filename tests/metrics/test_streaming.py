"""Metrics that never hold all scores: against a dense count, from files, of ensembles, and with intervals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aoq_ext import _sources
from aoq_ext.metrics import (
    RetrievalRanks,
    ensemble_metrics,
    ranking,
    ranks_from_embeddings,
    ranks_from_scores,
    retrieval_metrics,
    retrieval_metrics_from_scores,
)
from aoq_ext.mining.plain import ordered_dot

Ranks = tuple[list[int], list[int]]


def defined_scores(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """(N, T): every pair alone, in the order of additions that defines a score, not yet rounded."""
    rows = images.double().repeat_interleave(len(texts), 0)
    return ordered_dot(rows, texts.double().repeat(len(images), 1)).reshape(len(images), len(texts))


def dense_ranks(scores: torch.Tensor, owners: torch.Tensor, folds: int = 1) -> Ranks:
    """The definition on a whole matrix."""
    size = len(scores) // folds
    right = owners[None, :] == torch.arange(len(scores))[:, None]
    same_fold = (owners // size)[None, :] == (torch.arange(len(scores)) // size)[:, None]
    ranks = []
    for dim in (1, 0):
        best = scores.masked_fill(~right, -torch.inf).amax(dim, keepdim=True)
        ranks.append((1 + ((scores >= best) & ~right & same_fold).sum(dim)).tolist())
    return ranks[0], ranks[1]


def as_lists(ranks: RetrievalRanks) -> Ranks:
    return ranks.i2t.tolist(), ranks.t2i.tolist()


def shuffled_owners(images: int, texts: int, seed: int = 0) -> torch.Tensor:
    """Any number of texts an image, at least one, in any order."""
    generator = torch.Generator().manual_seed(seed)
    owners = torch.cat([torch.arange(images), torch.randint(images, (texts - images,), generator=generator)])
    return owners[torch.randperm(texts, generator=generator)]


def normal(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def integers(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randint(-2, 3, (rows, width), generator=torch.Generator().manual_seed(seed)).float()


def planted(kind: str, rows: int, width: int, seed: int) -> torch.Tensor:
    values = normal(rows, width, seed)
    if kind == "duplicates":
        values[rows // 2 :] = values[: rows - rows // 2].clone()
    elif kind == "integers":
        values = integers(rows, width, seed)
    elif kind == "sparse":
        values = (values - 1).relu()
    elif kind == "rounding":  # sums in which the last bits decide between two float32 neighbours
        values = 1 + 1e-7 * values
    elif kind == "cancelling":
        values[:, : width // 2] *= 1e3
        values[:, width // 2 : width // 2 * 2] = values[:, : width // 2].roll(1, 1)
    elif kind == "collapsed":
        values = values[:1].repeat(rows, 1)
    return values


KINDS = ("normal", "duplicates", "integers", "sparse", "rounding", "cancelling", "collapsed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folds", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_streaming_equals_dense(kind: str, folds: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank, whatever the panels are; scores too close for a float64 sum may only count against the query."""
    images, texts = planted(kind, 12, 37, 1).to(dtype), planted(kind, 41, 37, 2).to(dtype)
    texts[5:17] = images  # right and wrong texts that equal an image
    owners = shuffled_owners(12, 41)
    scores = defined_scores(images, texts)
    expected = dense_ranks(scores if dtype == torch.float64 else scores.float(), owners, folds)
    for panel_scores, candidate_elements in ((1 << 20, 1 << 20), (35, 37 * 9)):
        monkeypatch.setattr(ranking, "_PANEL_SCORES", panel_scores)
        monkeypatch.setattr(ranking, "_PANEL_ELEMENTS", candidate_elements)
        found = as_lists(ranks_from_embeddings([(images, texts)], owners, folds))
        if (kind, dtype) == ("rounding", torch.float64):
            assert all(torch.tensor(way).ge(torch.tensor(least)).all() for way, least in zip(found, expected))
        else:
            assert found == expected


def test_the_slack_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the ordinary product alone decides, equal texts no longer tie."""
    owners = torch.arange(40) % 20
    images, texts = normal(20, 200, 1).double(), planted("duplicates", 40, 200, 2).double()
    owners[20:] = owners[20:].roll(1)  # every text is right for one image, and its copy for another
    expected = dense_ranks(defined_scores(images, texts), owners)
    assert as_lists(ranks_from_embeddings([(images, texts)], owners)) == expected
    monkeypatch.setattr(ranking, "sum_difference", lambda terms: 0.0)
    assert as_lists(ranks_from_embeddings([(images, texts)], owners)) != expected


def test_every_score_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One product for both directions; own scores come from their pairs alone."""
    computed = []
    panel = ranking.EmbeddingScores.panel

    def counted(scores: ranking.EmbeddingScores, *block: Any) -> torch.Tensor:
        result = panel(scores, *block)
        computed.append(result.numel())
        return result

    monkeypatch.setattr(ranking.EmbeddingScores, "panel", counted)
    monkeypatch.setattr(ranking, "_PANEL_SCORES", 200)
    retrieval_metrics(normal(24, 8, 1), normal(96, 8, 2), shuffled_owners(24, 96))
    assert sum(computed) == 24 * 96
    assert max(computed) <= 200
    computed.clear()
    retrieval_metrics(normal(24, 8, 1), normal(96, 8, 2), torch.arange(96) // 4, folds=4)
    assert sum(computed) == 24 * 96 // 4


class Reader:
    """Rows in a file, as far as the metrics can tell."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.shape, self.dtype, self.longest = tensor, tuple(tensor.shape), tensor.dtype, 0

    def rows(self, start: int, stop: int) -> torch.Tensor:
        assert 0 <= start < stop <= self.shape[0]
        self.longest = max(self.longest, stop - start)
        return self.tensor[start:stop].clone()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_maps_and_readers_are_tensors_in_blocks(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, texts, owners = normal(12, 6, 1).numpy(), normal(40, 6, 2).numpy(), shuffled_owners(12, 40)
    images, texts = images.astype(dtype), texts.astype(dtype)
    tensors = torch.from_numpy(images), torch.from_numpy(texts)
    expected = retrieval_metrics(*tensors, owners, folds=2)
    assert retrieval_metrics(images, texts, owners.numpy().astype(np.uint16), folds=2) == expected

    np.save(tmp_path / "images.npy", np.asfortranarray(images))
    np.save(tmp_path / "texts.npy", texts)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("images", "texts")]
    np.save(tmp_path / "owners.npy", owners)
    assert retrieval_metrics(*maps, owners, folds=2) == expected
    paths = [tmp_path / f"{name}.npy" for name in ("images", "texts", "owners")]
    assert retrieval_metrics(*paths, folds=2) == expected

    monkeypatch.setattr(ranking, "_PANEL_ELEMENTS", 6 * 5)
    monkeypatch.setattr(_sources, "_CHECKED_BYTES", 6 * 5 * texts.itemsize)
    readers = [Reader(tensor) for tensor in tensors]
    assert retrieval_metrics(*readers, owners, folds=2) == expected
    assert all(reader.longest <= 5 for reader in readers)


MEMORY = """
import torch
from aoq_ext import metrics

class Scores:
    shape, dtype = (4000, 20000), torch.float32
    matrix = torch.randn(24000).unfold(0, 20000, 1)  # every row a view of the same few numbers
    def rows(self, start, stop):
        return self.matrix[start:stop]

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

torch.set_num_threads(1)
owners = torch.arange(20000) // 5
images, texts = torch.randn(4000, 64), torch.randn(20000, 64)
metrics.retrieval_metrics(images[:400], texts[:2000], owners[:2000])  # whatever torch sets up on the first call
before = peak()
ranks = metrics.ranks_from_embeddings([(images, texts), (images, texts)], owners)
print(peak() - before)
metrics.retrieval_metrics_from_scores(Scores(), owners)
print(peak() - before)
ranks.bootstrap(200)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_hold_the_scores() -> None:
    """The matrix would take 305 MB in float32."""
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=300, check=True)
    embeddings, scores, bootstrap = map(float, result.stdout.split())
    assert embeddings < 100
    assert scores < 100
    assert bootstrap < 120


def test_golden_scores() -> None:
    #        texts:  0    1    2    3    owners 0, 0, 1, 2
    scores = [
        [0.5, 0.9, 0.7, 0.1],  # best own 0.9, nobody ahead: rank 1
        [0.8, 0.6, 0.4, 0.2],  # own 0.4 behind 0.8 and 0.6: rank 3
        [0.3, 0.7, 0.9, 0.6],  # own 0.6 behind 0.7 and 0.9: rank 3
    ]  # column ranks: 0.5 behind 0.8: 2; 0.9 first: 1; 0.4 behind 0.7 and 0.9: 3; 0.6 first: 1
    owners = torch.tensor([0, 0, 1, 2])
    ranks = ranks_from_scores(torch.tensor(scores), owners)
    assert as_lists(ranks) == ([1, 3, 3], [2, 1, 3, 1])
    assert ranks.metrics()["rsum"] == pytest.approx(100 / 3 + 450)
    assert retrieval_metrics_from_scores(np.array(scores), owners) == ranks.metrics()


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("panel_scores", [1, 200, 1 << 20])
def test_scores_equal_dense(folds: int, dtype: torch.dtype, panel_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_PANEL_SCORES", panel_scores)
    scores, owners = (integers(15, 47, 1) / 4).to(dtype), shuffled_owners(15, 47)
    expected = dense_ranks(scores.double(), owners, folds)
    assert as_lists(ranks_from_scores(scores, owners, folds)) == expected
    assert as_lists(ranks_from_scores(scores.T.contiguous().T, owners, folds)) == expected
    assert as_lists(ranks_from_scores(Reader(scores), owners, folds)) == expected


@pytest.mark.parametrize("weights", [None, [0.25, 2.0, 0.0]])
def test_an_ensemble_is_the_weighted_average(weights: list[float] | None) -> None:
    """Widths differ; whole numbers, so that the average is exact however it is taken."""
    owners = shuffled_owners(18, 50)
    models = [(integers(18, width, width), integers(50, width, width + 1)) for width in (5, 40, 9)]
    shares = torch.tensor(weights or [1.0] * 3, dtype=torch.float64)
    matrices = [x @ y.T for x, y in models]
    average = (torch.stack(matrices).double() * shares[:, None, None]).sum(0) / 4
    expected = dense_ranks(average, owners, 2)
    assert as_lists(ranks_from_embeddings(models, owners, 2, weights)) == expected
    assert as_lists(ranks_from_scores(matrices, owners, 2, weights)) == expected
    assert as_lists(ranks_from_scores(average, owners, 2)) == expected
    assert ensemble_metrics(models, owners, 2, weights) == retrieval_metrics_from_scores(matrices, owners, 2, weights)


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_is_defined_to_the_bit(kind: str) -> None:
    owners, weights = shuffled_owners(20, 60), [0.3, 0.7]
    models = [(planted(kind, 20, width, width), planted(kind, 60, width, width + 1)) for width in (19, 33)]
    total = torch.zeros(20, 60, dtype=torch.float64)
    for weight, (images, texts) in zip(weights, models, strict=True):
        total += weight * defined_scores(images, texts)
    assert as_lists(ranks_from_embeddings(models, owners, weights=weights)) == dense_ranks(total.float(), owners)


def test_a_model_with_itself_is_the_model() -> None:
    images, texts, owners = integers(9, 6, 4), integers(20, 6, 5), shuffled_owners(9, 20, 6)
    assert ensemble_metrics([(images, texts)] * 2, owners) == retrieval_metrics(images, texts, owners)
    assert ensemble_metrics([(images, texts)], owners, weights=[3]) == retrieval_metrics(images, texts, owners)
    other = (normal(9, 3, 1), normal(20, 3, 2))
    alone = ensemble_metrics([(images, texts), other], owners, weights=[1, 0])
    assert alone == retrieval_metrics(images, texts, owners)


EYE, ROW = torch.eye(4), torch.arange(4)
PAIR = (EYE, EYE)
NAN = EYE.clone()
NAN[2, 1] = torch.nan


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((EYE, ROW), TypeError, "models must be a sequence of .* got Tensor"),
        (([], ROW), ValueError, "models must be a sequence of .* got none"),
        (([EYE], ROW), TypeError, r"models must be a sequence of .* got Tensor in models\[0\]"),
        (([PAIR, (EYE,)], ROW), ValueError, r"models must be a sequence of .* got 1 elements in models\[1\]"),
        (
            ([PAIR, (EYE, [1])], ROW),
            TypeError,
            r"models\[1\]\[1\] must be a tensor, .* or the path of a file, got list",
        ),
        (
            ([PAIR, (EYE[:3], EYE)], ROW),
            ValueError,
            r"models\[1\]\[0\] must have as many rows as models\[0\]\[0\], 4, got 3",
        ),
        (
            ([PAIR, (EYE, EYE[:3])], ROW),
            ValueError,
            r"models\[1\]\[1\] must have as many rows as models\[0\]\[1\], 4, got 3",
        ),
        (([(EYE, EYE[:, :3])], ROW), ValueError, r"models\[0\]\[1\] must have the D of models\[0\]\[0\], 4, got 3"),
        (([PAIR, (EYE, NAN)], ROW), ValueError, r"models\[1\]\[1\] must be finite, got NaN or infinity in row 2"),
        (
            ([PAIR, (EYE * 1e30, EYE * 1e30)], ROW),
            ValueError,
            r"models.* must have scores that fit float32, got .* 1e\+60",
        ),
        (([PAIR], ROW.numpy() / 2), ValueError, "text_image_index must be integers .* got an array with float64"),
        (([PAIR, PAIR], ROW, 1, [1.0]), ValueError, "weights must hold one number a model, 2, got 1"),
        (
            ([PAIR, PAIR], ROW, 1, [1.0, -1.0]),
            ValueError,
            r"weights must be finite, none negative .* got \[1.0, -1.0\]",
        ),
        (([PAIR, PAIR], ROW, 1, [0, 0]), ValueError, r"weights must be finite.* not all 0, got \[0.0, 0.0\]"),
        (([PAIR], ROW, 3), ValueError, "folds must be a positive divisor of the 4 images, got 3"),
        (([(EYE.numpy().astype(np.int32), EYE)], ROW), ValueError, r"models\[0\]\[0\] must be float16, .* int32"),
    ],
)
def test_embedding_errors_name_the_argument(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ranks_from_embeddings(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([], ROW), ValueError, "scores must hold at least one matrix, got none"),
        ((EYE.int(), ROW), TypeError, "scores must be float32, float16, bfloat16 or float64, got int32"),
        ((EYE[0], ROW), ValueError, r"scores must have shape \(rows, .*got \(4,\)"),
        (([EYE, EYE[:3]], ROW), ValueError, r"scores\[1\] must have the shape of scores\[0\], \(4, 4\), got \(3, 4\)"),
        (([EYE, NAN], ROW), ValueError, r"scores\[1\] must be finite, got NaN or infinity in row 2"),
        ((NAN, ROW), ValueError, "scores must be finite, got NaN or infinity in row 2"),
        ((EYE, ROW[:3]), ValueError, r"text_image_index must have one integer per column of scores.*got shape \(3,\)"),
        ((EYE, ROW * 0), ValueError, "text_image_index must give every image a text, got none for rows 1, 2, 3"),
        ((EYE[:0], ROW), ValueError, "scores must hold at least one image"),
        ((EYE, ROW, 0), ValueError, "folds must be a positive divisor of the 4 images, got 0"),
    ],
)
def test_score_errors_name_the_argument(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ranks_from_scores(*arguments)
