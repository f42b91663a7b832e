"""What mining and metrics share about embedding matrices: checks, and how exact a score is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._validation import check_floating, shape_of

_ROWS_SHOWN = 5
_PANEL_ELEMENTS = 1 << 20


def check_matrix(name: str, rows: Tensor) -> None:
    """Require a floating-point matrix (rows, D) with D at least 1."""
    check_floating(name, rows)
    if rows.dim() != 2 or rows.shape[1] == 0:
        raise ValueError(f"{name} must have shape (rows, D) with D ≥ 1, got {shape_of(rows)}")


def check_finite(name: str, rows: Tensor, first: int = 0) -> float:
    """Require finite values in rows (n, D); the ValueError names the rows that hold others, counted from ``first``.

    Returns the greatest Euclidean norm of a row, taken in float64, 0 without rows: one pass finds both.
    """
    step = max(1, _PANEL_ELEMENTS // rows.shape[1])
    greatest = 0.0
    for start in range(0, rows.shape[0], step):
        panel = rows[start : start + step]
        norm = float(torch.linalg.vector_norm(panel, dim=1, dtype=torch.float64).amax())
        if not math.isfinite(norm):
            bad = torch.nonzero(~torch.isfinite(panel).all(dim=1)).flatten()
            if bad.numel() > 0:
                raise ValueError(f"{name} must be finite, got NaN or infinity in {rows_of(first + start + bad)}")
        greatest = max(greatest, norm)
    return greatest


def rows_of(numbers: Tensor) -> str:
    """``row 3``, or ``rows 1, 4, 7 and 12 more``: row numbers (n,) in a length that fits an error message."""
    shown = ", ".join(map(str, numbers[:_ROWS_SHOWN].tolist()))
    more = f" and {numbers.numel() - _ROWS_SHOWN} more" if numbers.numel() > _ROWS_SHOWN else ""
    return f"row{'' if numbers.numel() == 1 else 's'} {shown}{more}"


def sum_difference(terms: int) -> float:
    """A bound on the difference of two float64 sums of the same terms in any order, relative to their absolute sum.

    Hence also relative to the product of the norms, if they are products of two rows. Either sum is within terms · u /
    (1 - terms · u) of the exact one (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), u = eps / 2;
    the four extra terms cover a weight, and the rounding of the norms and of the bound itself.
    """
    return (terms + 4) * torch.finfo(torch.float64).eps
