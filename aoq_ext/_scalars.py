"""Arguments that are plain values: numbers, as Python's or as numpy's, and lists of strings."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable


def as_int(name: str, value: object) -> int:
    """An integer, of whatever type; TypeError for what is none, booleans and floats included."""
    try:
        if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
            raise TypeError("a truth value")
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None


def as_positive(name: str, value: object, kind: str = "number") -> int:
    """An integer from 1 on, of whatever type; ``kind``: what errors say was expected."""
    if (number := as_int(name, value)) < 1:
        raise ValueError(f"{name}: expected a positive {kind}, got {number}")
    return number


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


def check_list(name: str, values: object, of: str) -> None:
    """TypeError for one string or path where several ``of`` a kind belong: it would be taken letter by letter."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a list of {of}, got {type(values).__name__}: {values!r:.60}")


def as_strings(name: str, values: Iterable[str]) -> list[str]:
    """A list of strings; TypeError for one string, and for what holds others."""
    check_list(name, values, "str")
    strings = list(values)
    for index, value in enumerate(strings):
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected str, got {type(value).__name__} at {index}: {value!r:.60}")
    return strings
