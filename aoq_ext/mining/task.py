"""A mining problem, checked and complete: what every way of carrying it out starts from."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

from .._sources import Source, check_all_finite, read_integers
from .._validation import INTEGER_DTYPES, as_int64, check_integers, check_tensor, dtype_of, shape_of
from . import keys
from .embeddings import Embeddings
from .rules import MiningRules, no_positives, positive_scores
from .side import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

Labels = Sequence[Sequence[int]] | tuple[Tensor, Tensor]
Ids = Union[Tensor, "NDArray[Any]"]


@dataclass(frozen=True)
class GivenSide:
    """All anchors, or all candidates, with what decides which pairs belong together, as the caller gave it."""

    source: Source  # (rows, D)
    ids: Ids | None = None  # (rows,)
    labels: Labels | None = None


@dataclass(frozen=True)
class MiningTask:
    """Lists of k negatives for every anchor, and of k_reverse for every candidate where that direction is wanted."""

    anchors: Embeddings
    candidates: Embeddings
    rules: MiningRules
    all_anchors: int | None = None  # where other processes hold some: how many there are
    all_candidates: int | None = None

    @property
    def depth(self) -> int:
        """Keys that are kept for an anchor."""
        return max(1, min(self.rules.k + self.rules.skip, self.all_candidates or len(self.candidates)))

    @property
    def depth_reverse(self) -> int | None:
        """Keys that are kept for a candidate."""
        if self.rules.k_reverse is None:
            return None
        return max(1, min(self.rules.k_reverse + self.rules.skip, self.all_anchors or len(self.anchors)))

    def lists(self, found: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Indices (n, k) int64 and scores (n, k) float32 of keys (n, depth)."""
        window = found[:, self.rules.skip : self.rules.skip + k]
        padded = torch.nn.functional.pad(window, (0, k - window.shape[1]), value=keys.NO_KEY)
        return keys.unpack(padded)


def make_task(anchors: GivenSide, candidates: GivenSide, rules: MiningRules) -> MiningTask:
    """Check that the parts fit each other, read every embedding once, and settle the caps.

    Sources have the same dtype; see `mine_hard_negatives` for the arguments and the errors.
    """
    rows, columns = make_sides(anchors, candidates, rules)
    check_scores_fit(check_all_finite("anchors", anchors.source), check_all_finite("candidates", candidates.source))
    if rules.has_caps:
        unbound = [no_positives(len(side)) for side in (rows, columns)]
        p_rows, p_columns = positive_scores(rows, columns) if rules.needs_positives else unbound
        rows, columns = rows.with_caps(rules.caps(p_rows)), columns.with_caps(rules.caps(p_columns))
    return MiningTask(rows, columns, rules)


def make_sides(anchors: GivenSide, candidates: GivenSide, rules: MiningRules) -> tuple[Embeddings, Embeddings]:
    """Both sides, without caps; what is known of their rows is checked, the rows themselves are not read."""
    if rules.needs_positives and anchors.ids is None:
        raise TypeError("anchor_ids must be given with margin or relative_margin, got None: they name the positives")
    _check_both("anchor_ids", anchors.ids, "candidate_ids", candidates.ids)
    _check_both("anchor_labels", anchors.labels, "candidate_labels", candidates.labels)
    sides = []
    for name, side in (("anchor", anchors), ("candidate", candidates)):
        count = side.source.shape[0]
        if count > keys.MOST_INDEX:
            raise ValueError(f"{name}s must have at most {keys.MOST_INDEX} rows, got {count}")
        ids = None if side.ids is None else _ids(f"{name}_ids", side.ids, count, f"{name}s")
        labels = None if side.labels is None else _ragged(f"{name}_labels", side.labels, count)
        sides.append(Embeddings(side.source, ids, labels))
    return sides[0], sides[1]


def _check_both(name: str, given: object, other: str, needed: object) -> None:
    if (given is None) != (needed is None):
        missing, there = (name, other) if given is None else (other, name)
        raise TypeError(f"{missing} must be given with {there}, got None")


def _ids(name: str, ids: Tensor | NDArray[Any], rows: int, what: str) -> Tensor:
    """Ids as they compete, on the CPU."""
    ids = read_integers(ids, name)
    check_integers(name, ids)
    if tuple(ids.shape) != (rows,):
        raise ValueError(f"{name} must have one integer per row of {what}, {rows}, got shape {shape_of(ids)}")
    if ids.is_meta:
        raise ValueError(f"{name} must hold numbers, got a tensor on the meta device")
    return as_int64(name, ids).cpu()


def check_scores_fit(anchor_norm: float, candidate_norm: float) -> None:
    if not anchor_norm * candidate_norm < torch.finfo(torch.float32).max / 2:
        raise ValueError(
            "anchors and candidates must have scores that fit float32, got rows with norms up to "
            f"{anchor_norm:.3g} and {candidate_norm:.3g}"
        )


def _ragged(name: str, labels: Labels, rows: int) -> Ragged:
    """Labels as they compete: ascending within a row, on the CPU."""
    if isinstance(labels, tuple) and len(labels) == 2 and isinstance(labels[0], Tensor):
        for what, part in zip(("values", "offsets"), labels):
            check_tensor(f"{what} of {name}", part)
            assert isinstance(part, Tensor)
            if part.dim() != 1 or part.dtype not in INTEGER_DTYPES:
                raise TypeError(
                    f"{what} of {name} must be integers of one dimension, "
                    f"got {dtype_of(part)} of {part.dim()} dimensions"
                )
        values, offsets = (
            as_int64(f"{what} of {name}", part).cpu()
            for what, part in zip(("values", "offsets"), labels)
            if isinstance(part, Tensor)
        )
    else:
        try:
            if any(isinstance(row, (str, bytes)) for row in labels):
                raise TypeError("text is no sequence of integers")
            lengths = [len(row) for row in labels]
            values = torch.tensor(
                [operator.index(label) for row in labels for label in row], dtype=torch.int64, device="cpu"
            )
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise TypeError(
                f"{name} must be (values, offsets) or a sequence of integers for every row, got {labels!r:.60}"
            ) from error
        offsets = torch.tensor([0, *lengths], dtype=torch.int64, device="cpu").cumsum(0)
    if len(offsets) != rows + 1:
        raise ValueError(f"{name} must have labels for {rows} rows, got {len(offsets) - 1}")
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(values) or bool((offsets.diff() < 0).any()):
        raise ValueError(f"{name} must have offsets that rise from 0 to the number of values, {len(values)}")
    row = torch.repeat_interleave(torch.arange(rows, device=offsets.device), offsets.diff())
    by_value = values.argsort(stable=True)
    order = by_value[row[by_value].argsort(stable=True)]
    return Ragged(values[order], offsets)
