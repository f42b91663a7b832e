"""Numbers that come as Python's or as numpy's."""

from __future__ import annotations

import math
import numbers
import operator


def as_int(name: str, value: object) -> int:
    """An integer, of whatever type; TypeError for what is none, booleans and floats included."""
    try:
        if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
            raise TypeError("a truth value")
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None


def as_float(name: str, value: object) -> float:
    """A finite real number, of whatever type."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a float, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value}")
    return number
