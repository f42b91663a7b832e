"""Numbers that come as Python's or as numpy's."""

from __future__ import annotations

import math
import numbers
import operator


def as_int(name: str, value: object) -> int:
    """An integer, of whatever type; TypeError for what is none, booleans and floats included."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    return operator.index(value)


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
