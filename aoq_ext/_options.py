"""The options of the loss: names users write, integer codes the operators take, and their validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import IntEnum
from inspect import Parameter, signature
from typing import Any, TypedDict, TypeVar, get_type_hints

from ._scalars import as_float

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Option:
    """An option of an object that keeps it in another: in a value that is made anew, checked, when one is set.

    Args:
        holder: the attribute that has the options.
        make: what makes it of all of them by name; None: it takes a new one itself.
    """

    def __init__(self, holder: str, make: Callable[..., Any] | None, name: str) -> None:
        self._holder = holder
        self._make = make
        self._name = name

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = getattr(getattr(instance, self._holder), self._name)
        return shown(value)

    def __set__(self, instance: Any, value: object) -> None:
        options = getattr(instance, self._holder)
        if self._make is None:
            setattr(options, self._name, value)
        else:
            given = {option.name: getattr(options, option.name) for option in fields(options) if option.init}
            setattr(instance, self._holder, self._make(**{**given, self._name: value}))


def option_of(holder: str, make: Callable[..., Any] | None = None, name: str = "") -> Any:
    return _Option(holder, make, name)


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


def _by(parse: Callable[[str, Any], Any]) -> dict[str, Any]:
    """What makes a field's value of what users write."""
    return {"parse": parse}


@dataclass(frozen=True)
class LossOptions:
    """Validated options of the loss; see :class:`aoq_ext.AdaptiveQuintupletLoss` for their meaning.

    Numbers come first, then codes: each in the order of ``LossParams`` in csrc/params.h, which takes them as two lists.
    """

    margin_online: float = field(default=0.2, metadata=_by(as_float))
    margin_offline: float = field(default=0.0, metadata=_by(as_float))
    alpha: float = field(default=0.3, metadata=_by(_positive))
    beta: float = field(default=1.5, metadata=_by(as_float))
    objective: Objective = field(default=Objective.ADAPTIVE_QUINTUPLET, metadata=_by(_choice(Objective)))
    online: Online = field(default=Online.HARDEST, metadata=_by(_choice(Online)))
    similarity: Similarity = field(default=Similarity.DOT, metadata=_by(_choice(Similarity)))
    reduction: Reduction = field(default=Reduction.SUM, metadata=_by(_choice(Reduction)))
    detach_weight: bool = field(default=False, metadata=_by(_flag))
    clamp_weight: bool = field(default=False, metadata=_by(_flag))
    gather_distributed: bool = field(default=False, metadata=_by(_flag))

    @classmethod
    def create(cls, **given: Any) -> LossOptions:
        """Build from the names users write; TypeError or ValueError names the option, the expected and the given."""
        unknown = given.keys() - _PARSERS[cls].keys()
        if unknown:
            raise TypeError(f"unexpected option {sorted(unknown)[0]!r}; expected some of {', '.join(_PARSERS[cls])}")
        return cls(**{name: _PARSERS[cls][name](name, value) for name, value in given.items()})

    def lists(self, allow_tf32: bool = False) -> tuple[list[float], list[int]]:
        """``numbers`` and ``codes`` of the operators."""
        codes = [int(getattr(self, name)) for name in CODES]
        return [getattr(self, name) for name in _NUMBERS], [*codes, int(allow_tf32)]


@dataclass(frozen=True)
class ScoreLossOptions(LossOptions):
    """Options of the loss of given scores, which are the similarities."""

    similarity: Similarity = field(default=Similarity.DOT, init=False)


_PARSERS = {
    options: {option.name: option.metadata["parse"] for option in fields(options) if option.init}
    for options in (LossOptions, ScoreLossOptions)
}
_NUMBERS = [option.name for option in fields(LossOptions) if isinstance(option.default, float)]
CODES = [name for name in _PARSERS[LossOptions] if name not in (*_NUMBERS, "gather_distributed")]


class ScoreLossKeywords(TypedDict, total=False):
    """What users write for :class:`ScoreLossOptions`."""

    margin_online: float
    margin_offline: float
    alpha: float
    beta: float
    objective: str
    online: str
    reduction: str
    detach_weight: bool
    clamp_weight: bool
    gather_distributed: bool


class LossKeywords(ScoreLossKeywords, total=False):
    """What users write for :class:`LossOptions`."""

    similarity: str


def shown(value: object) -> object:
    """An option as users write it."""
    return value.name.lower() if isinstance(value, IntEnum) else value


def parameters(options: type[LossOptions], kind: Any) -> list[Parameter]:
    """The options with their defaults, for a signature."""
    types = get_type_hints(LossKeywords)
    return [
        Parameter(option.name, kind, default=shown(option.default), annotation=types[option.name])
        for option in fields(options)
        if option.init
    ]


def shows(options: type[LossOptions]) -> Callable[[_Function], _Function]:
    """Puts the options in the signature of a function that takes them as ``**options``."""

    def show(function: _Function) -> _Function:
        given = signature(function)
        own = [parameter for parameter in given.parameters.values() if parameter.kind != Parameter.VAR_KEYWORD]
        every = [*own, *parameters(options, Parameter.KEYWORD_ONLY)]
        function.__signature__ = given.replace(parameters=every)  # type: ignore[attr-defined]
        return function

    return show
