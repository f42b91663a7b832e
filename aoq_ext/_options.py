"""The options of the loss: names users write, integer codes the operators take, and their validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

from ._scalars import as_float


class _Option:
    """An option of an object that keeps it in another: in a value that is made anew, checked, when one is set.

    Args:
        holder: the attribute that has the options.
        make: what makes it of all of them by name; None: it takes a new one itself.
    """

    def __init__(self, holder: str, make: Callable[..., Any] | None = None) -> None:
        self._holder = holder
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = getattr(getattr(instance, self._holder), self._name)
        return value.name.lower() if isinstance(value, IntEnum) else value

    def __set__(self, instance: Any, value: object) -> None:
        options = getattr(instance, self._holder)
        if self._make is None:
            setattr(options, self._name, value)
        else:
            setattr(instance, self._holder, self._make(**{**vars(options), self._name: value}))


def option_of(holder: str, make: Callable[..., Any] | None = None) -> Any:
    return _Option(holder, make)


class Objective(IntEnum):
    """The paper's ablation ladder; each rung adds to the one before. Mirrors csrc/params.h."""

    ONLINE_TRIPLET = 0
    OFFLINE_TRIPLET = 1
    OFFLINE_QUINTUPLET = 2
    ADAPTIVE_QUINTUPLET = 3


class Online(IntEnum):
    """How online negatives are chosen. Mirrors csrc/params.h."""

    HARDEST = 0
    SEMIHARD = 1
    ALL = 2


class Similarity(IntEnum):
    """Similarity of an image and a text embedding. Mirrors csrc/params.h."""

    DOT = 0
    COSINE = 1
    ORDER = 2


class Reduction(IntEnum):
    """What becomes of the (B,) losses. Mirrors csrc/params.h."""

    SUM = 0
    MEAN = 1
    NONE = 2


@dataclass(frozen=True)
class LossOptions:
    """Validated options of the loss; see :class:`aoq_ext.AdaptiveQuintupletLoss` for their meaning."""

    margin_online: float = 0.2
    margin_offline: float = 0.0
    alpha: float = 0.3
    beta: float = 1.5
    objective: Objective = Objective.ADAPTIVE_QUINTUPLET
    online: Online = Online.HARDEST
    similarity: Similarity = Similarity.DOT
    reduction: Reduction = Reduction.SUM
    detach_weight: bool = False
    clamp_weight: bool = False
    gather_distributed: bool = False

    @staticmethod
    def create(**given: Any) -> LossOptions:
        """Build from the names users write; TypeError or ValueError names the option, the expected and the given."""
        unknown = given.keys() - _PARSERS.keys()
        if unknown:
            raise TypeError(f"unexpected option {sorted(unknown)[0]!r}; expected some of {', '.join(_PARSERS)}")
        return LossOptions(**{name: _PARSERS[name](name, value) for name, value in given.items()})


def _positive(name: str, value: Any) -> float:
    if as_float(name, value) <= 0:
        raise ValueError(f"{name} must be greater than 0, got {value}")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
    return value


def _choice(enum: type[IntEnum]) -> Any:
    choices = {member.name.lower(): member for member in enum}

    def parse(name: str, value: Any) -> IntEnum:
        if isinstance(value, enum):
            return value
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, got {type(value).__name__}")
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
        return choices[value]

    return parse


_PARSERS: dict[str, Any] = {
    "margin_online": as_float,
    "margin_offline": as_float,
    "alpha": _positive,
    "beta": as_float,
    "objective": _choice(Objective),
    "online": _choice(Online),
    "similarity": _choice(Similarity),
    "reduction": _choice(Reduction),
    "detach_weight": _flag,
    "clamp_weight": _flag,
    "gather_distributed": _flag,
}
assert list(_PARSERS) == [field.name for field in fields(LossOptions)]
