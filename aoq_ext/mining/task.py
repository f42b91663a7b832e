"""A mining problem, checked and complete: what every way of carrying it out starts from."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

from .._scalars import as_int
from .._sources import Source, check_all_finite, read_integers
from .._validation import INTEGER_DTYPES, check_tensor, dtype_of, shape_of
from . import keys
from .embeddings import Embeddings
from .rules import NegativeRules, positive_scores
from .side import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

Labels = Sequence[Sequence[int]] | tuple[Tensor, Tensor]
Ids = Union[Tensor, "NDArray[Any]"]


@dataclass(frozen=True)
class MiningTask:
    """Lists of k negatives for every anchor, and of k_reverse for every candidate where that direction is wanted."""

    anchors: Embeddings
    candidates: Embeddings
    k: int
    k_reverse: int | None
    skip: int  # the hardest that are left out of every list
    all_anchors: int | None = None  # where other processes hold some: how many there are
    all_candidates: int | None = None

    @property
    def depth(self) -> int:
        """Keys that are kept for an anchor."""
        return max(1, min(self.k + self.skip, self.all_candidates or len(self.candidates)))

    @property
    def depth_reverse(self) -> int | None:
        """Keys that are kept for a candidate."""
        if self.k_reverse is None:
            return None
        return max(1, min(self.k_reverse + self.skip, self.all_anchors or len(self.anchors)))

    def lists(self, found: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Indices (n, k) int64 and scores (n, k) float32 of keys (n, depth)."""
        window = found[:, self.skip : self.skip + k]
        padded = torch.nn.functional.pad(window, (0, k - window.shape[1]), value=keys.NO_KEY)
        return keys.unpack(padded)


def make_task(
    anchors: Source,  # (N, D)
    candidates: Source,  # (M, D)
    k: int,
    k_reverse: int | None,
    anchor_ids: Ids | None,  # (N,)
    candidate_ids: Ids | None,  # (M,)
    anchor_labels: Labels | None,
    candidate_labels: Labels | None,
    rules: NegativeRules,
) -> MiningTask:
    """Check that the parts fit each other, read every embedding once, and settle the caps.

    Sources have the same dtype; see `mine_hard_negatives` for the arguments and the errors.
    """
    k, k_reverse = check_numbers(k, k_reverse, rules, anchor_ids)
    rows, columns = make_sides(anchors, candidates, anchor_ids, candidate_ids, anchor_labels, candidate_labels)
    check_scores_fit(check_all_finite("anchors", anchors), check_all_finite("candidates", candidates))
    if rules.has_caps:
        unbound = [torch.full((len(side),), -torch.inf) for side in (rows, columns)]
        p_rows, p_columns = positive_scores(rows, columns) if rules.needs_positives else unbound
        rows, columns = rows.with_caps(rules.caps(p_rows)), columns.with_caps(rules.caps(p_columns))
    return MiningTask(rows, columns, k, k_reverse, rules.skip)


def check_numbers(k: int, k_reverse: int | None, rules: NegativeRules, anchor_ids: object) -> tuple[int, int | None]:
    """k and k_reverse."""
    k, k_reverse = as_int("k", k), None if k_reverse is None else as_int("k_reverse", k_reverse)
    for name, value in (("k", k), ("k_reverse", k_reverse)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if rules.needs_positives and anchor_ids is None:
        raise TypeError("anchor_ids must be given with margin or relative_margin, got None: they name the positives")
    return k, k_reverse


def make_sides(
    anchors: Source,  # (N, D)
    candidates: Source,  # (M, D)
    anchor_ids: Ids | None,  # (N,)
    candidate_ids: Ids | None,  # (M,)
    anchor_labels: Labels | None,
    candidate_labels: Labels | None,
) -> tuple[Embeddings, Embeddings]:
    """Both sides, without caps; what is known of their rows is checked, the rows themselves are not read."""
    _check_both("anchor_ids", anchor_ids, "candidate_ids", candidate_ids)
    _check_both("anchor_labels", anchor_labels, "candidate_labels", candidate_labels)
    sides = []
    for name, source, ids, labels in (
        ("anchor", anchors, anchor_ids, anchor_labels),
        ("candidate", candidates, candidate_ids, candidate_labels),
    ):
        count = source.shape[0]
        if count > keys.MOST_INDEX:
            raise ValueError(f"{name}s must have at most {keys.MOST_INDEX} rows, got {count}")
        own = None if ids is None else _ids(f"{name}_ids", ids, count, f"{name}s")
        ragged = None if labels is None else _ragged(f"{name}_labels", labels, count)
        sides.append(Embeddings(source, own, ragged))
    return sides[0], sides[1]


def _check_both(name: str, given: object, other: str, needed: object) -> None:
    if (given is None) != (needed is None):
        missing, there = (name, other) if given is None else (other, name)
        raise TypeError(f"{missing} must be given with {there}, got None")


def _ids(name: str, ids: Tensor | NDArray[Any], rows: int, what: str) -> Tensor:
    """Ids as they compete, on the CPU."""
    ids = read_integers(ids, name)
    check_tensor(name, ids)
    if ids.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name} must be an integer tensor, got {dtype_of(ids)}")
    if tuple(ids.shape) != (rows,):
        raise ValueError(f"{name} must have one integer per row of {what}, {rows}, got shape {shape_of(ids)}")
    if ids.is_meta:
        raise ValueError(f"{name} must hold numbers, got a tensor on the meta device")
    return ids.long().cpu()


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
        values, offsets = (part.long().cpu() for part in labels if isinstance(part, Tensor))
    else:
        try:
            if any(isinstance(row, (str, bytes)) for row in labels):
                raise TypeError("text is no sequence of integers")
            lengths = [len(row) for row in labels]
            values = torch.tensor([operator.index(label) for row in labels for label in row], dtype=torch.int64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} must be (values, offsets) or a sequence of integers for every row, got {labels!r:.60}"
            ) from error
        offsets = torch.tensor([0, *lengths]).cumsum(0)
    if len(offsets) != rows + 1:
        raise ValueError(f"{name} must have labels for {rows} rows, got {len(offsets) - 1}")
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(values) or bool((offsets.diff() < 0).any()):
        raise ValueError(f"{name} must have offsets that rise from 0 to the number of values, {len(values)}")
    row = torch.repeat_interleave(torch.arange(rows), offsets.diff())
    by_value = values.argsort(stable=True)
    order = by_value[row[by_value].argsort(stable=True)]
    return Ragged(values[order], offsets)
