"""What all metrics are computed from: one rank per query, and which image it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._scalars import as_float, as_int

RECALL_LEVELS = (1, 5, 10)
WAYS = ("i2t", "t2i")

# Counts of a chunk of resamples: a few arrays of 8 MB.
_CHUNK_COUNTS = 1 << 20


@dataclass(frozen=True, eq=False)
class RetrievalRanks:
    """The rank, from 1, of every query's best right candidate among all candidates of its fold.

    Metrics and their intervals are both functions of the ranks, so the scores are computed once for either.

    Attributes:
        i2t: (N,) int64, the ranks of images retrieving texts.
        t2i: (T,) int64, the ranks of texts retrieving images.
        text_image_index: (T,) int64, the image that each text describes.
        folds: the images are split into this many contiguous blocks of equal size, each measured on its own.
    """

    i2t: Tensor
    t2i: Tensor
    text_image_index: Tensor
    folds: int = 1

    def metrics(self) -> dict[str, float]:
        """The dictionary that `aoq_ext.metrics.retrieval_metrics` returns."""
        once = torch.ones(1, len(self.i2t), dtype=torch.int64, device="cpu")
        return {key: float(value) for key, value in _average(list(self._folds()), once).items()}

    def bootstrap(
        self, resamples: int = 1000, level: float = 0.95, seed: int = 0, over: RetrievalRanks | None = None
    ) -> dict[str, tuple[float, float]]:
        """Percentile intervals of all metrics: ``(low, high)`` under the keys of `metrics`.

        The unit that is drawn, with replacement, is an image with all its texts: the texts of an image succeed and
        fail together, so drawing them singly would make the intervals too narrow. Each fold is drawn from itself. The
        ranks stay what they are among all candidates: the interval says how much the figures owe to the choice of the
        queries, not how they would change in a larger or smaller set.

        Args:
            resamples: how often a test set is drawn, at least 1.
            level: the share of the resampled metrics inside an interval, between 0 and 1.
            seed: the same seed gives the same intervals, on every device.
            over: ranks of the same queries by another model. The intervals are then those of the differences, these
                metrics less those of ``over``, both measured on the same drawn test sets.
        """
        resamples, level, seed = checked_bootstrap(resamples, level, seed)
        if over is not None:
            _check_same_queries(self, over)
        folds, others = list(self._folds()), None if over is None else list(over._folds())
        generator = torch.Generator().manual_seed(seed)
        size = len(self.i2t) // self.folds
        step = max(1, _CHUNK_COUNTS // len(self.t2i))
        chunks = []
        for start in range(0, resamples, step):
            rows = min(step, resamples - start)
            counts = torch.zeros(rows, self.folds, size, dtype=torch.int64, device="cpu")
            drawn = torch.randint(size, counts.shape, generator=generator, device="cpu")
            counts.scatter_add_(2, drawn, torch.ones_like(drawn))
            drawn_metrics = _average(folds, counts.flatten(1))
            if others is not None:
                theirs = _average(others, counts.flatten(1))
                drawn_metrics = {key: values - theirs[key] for key, values in drawn_metrics.items()}
            chunks.append(drawn_metrics)
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device="cpu")
        intervals = {}
        for key in chunks[0]:
            low, high = torch.quantile(torch.cat([chunk[key] for chunk in chunks]), ends).tolist()
            intervals[key] = (low, high)
        return intervals

    def report(self, resamples: int = 0, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
        """The metrics, ready for JSON; with ``resamples``, also ``intervals`` and the ``bootstrap`` they came from."""
        result: dict[str, Any] = dict(self.metrics())
        if as_int("resamples", resamples):
            resamples, level, seed = checked_bootstrap(resamples, level, seed)
            result["intervals"] = {key: list(ends) for key, ends in self.bootstrap(resamples, level, seed).items()}
            result["bootstrap"] = {"resamples": resamples, "level": level, "seed": seed}
        return result

    def _folds(self) -> Iterator[dict[str, _Queries]]:
        """The queries of each fold, both ways, on the CPU."""
        i2t, t2i, owners = self.i2t.cpu(), self.t2i.cpu(), self.text_image_index.cpu()
        for images in torch.arange(len(i2t), device=i2t.device).chunk(self.folds):
            texts = torch.nonzero((owners >= images[0]) & (owners <= images[-1])).flatten()
            yield {"i2t": _Queries.of(i2t[images], images), "t2i": _Queries.of(t2i[texts], owners[texts])}


@dataclass(frozen=True, eq=False)
class _Queries:
    """The queries of one direction in one fold, by rank."""

    ranks: Tensor  # (Q,) int64, ascending
    images: Tensor  # (Q,) int64: query q is drawn with image images[q]

    @classmethod
    def of(cls, ranks: Tensor, images: Tensor) -> _Queries:
        ordered, order = ranks.sort(stable=True)
        return cls(ordered, images[order])

    def summary(self, counts: Tensor) -> dict[str, Tensor]:
        """Metrics (R,) float64 of R test sets in which image i stands counts[r, i] times; counts: (R, N) int64."""
        drawn = counts[:, self.images]
        upto = drawn.cumsum(1)  # (R, Q): how many stand at this position or before
        total = upto[:, -1:]
        result = {}
        for level in RECALL_LEVELS:
            inside = int(torch.searchsorted(self.ranks, level, right=True))
            hits = upto[:, inside - 1] if inside else torch.zeros_like(total[:, 0])
            result[f"r{level}"] = 100.0 * hits.double() / total[:, 0]
        middle = torch.cat([(total - 1) // 2, total // 2], dim=1)  # positions from 0: equal when the number is odd
        median = self.ranks[torch.searchsorted(upto, middle, right=True)].sum(1) // 2
        ranks = drawn.double() @ self.ranks.double()  # whole numbers, hence exact
        return result | {"medr": median.double(), "meanr": ranks / total[:, 0]}


def _average(folds: list[dict[str, _Queries]], counts: Tensor) -> dict[str, Tensor]:
    """Metrics (R,), averaged over the folds, of R test sets; counts: (R, N)."""
    metrics: dict[str, Tensor] = {}
    for way in WAYS:
        parts = [fold[way].summary(counts) for fold in folds]
        metrics |= {
            f"{way}_{key}": sum((part[key] for part in parts[1:]), parts[0][key]) / len(parts) for key in parts[0]
        }
    recalls = [metrics[f"{way}_r{level}"] for way in WAYS for level in RECALL_LEVELS]
    metrics["rsum"] = sum(recalls[1:], recalls[0])
    return metrics


def _check_same_queries(ranks: RetrievalRanks, over: RetrievalRanks) -> None:
    if not isinstance(over, RetrievalRanks):
        raise TypeError(f"over must be RetrievalRanks, got {type(over).__name__}")
    got, expected = ((len(each.i2t), len(each.t2i), each.folds) for each in (over, ranks))
    if got != expected:
        raise ValueError(f"over must have as many images, texts and folds, {expected}, got {got}")
    if not torch.equal(over.text_image_index.cpu(), ranks.text_image_index.cpu()):
        raise ValueError("over must have the same text_image_index, got another")


def checked_bootstrap(resamples: int, level: float, seed: int) -> tuple[int, float, int]:
    """Require what `RetrievalRanks.bootstrap` can do."""
    resamples, level, seed = as_int("resamples", resamples), as_float("level", level), as_int("seed", seed)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if not 0 <= as_int("seed", seed) < 1 << 63:
        raise ValueError(f"seed must be from 0 to 2**63 - 1, got {seed}")
    return resamples, level, seed
