"""What the fused loss is meant to reach on a GPU; measured values are held against it, met or missed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

OURS, EAGER, COMPILED, MM = "aoq_ext", "eager reference", "torch.compile of it", "mm + argmax + gather"
AUTOTUNED, PRODUCT = "torch.compile of it, max-autotune", "bare product"

# (dtype, B, D, form, quantity) -> value; see gpu_run.measure for the quantities
Values = Mapping[tuple[str, int, int, str, str], float]


@dataclass(frozen=True)
class Target:
    name: str
    bound: float
    value: Callable[[Values], float | None]
    at_least: bool = True

    def judge(self, values: Values) -> tuple[float | None, str]:
        value = self.value(values)
        if value is None:
            return None, "not measured"
        return value, "met" if (value >= self.bound if self.at_least else value <= self.bound) else "missed"


def ratio(dtype: str, count: int, over: str, over_quantity: str, quantity: str) -> Callable[[Values], float | None]:
    """How many times longer `over` takes than ours, at D = 1024."""

    def value(values: Values) -> float | None:
        theirs = values.get((dtype, count, 1024, over, over_quantity))
        ours = values.get((dtype, count, 1024, OURS, quantity))
        return None if theirs is None or not ours else theirs / ours

    return value


def faster(dtype: str, count: int, form: str, bound: float) -> Target:
    name = f"{dtype}, B = {count}, forward + backward: times faster than {form}"
    return Target(name, bound, ratio(dtype, count, form, "both", "both"))


def quantity(dtype: str, count: int, name: str, scale: float = 1.0) -> Callable[[Values], float | None]:
    def value(values: Values) -> float | None:
        found = values.get((dtype, count, 1024, OURS, name))
        return None if found is None else found * scale

    return value


TARGETS = (
    Target(
        "bfloat16, B = 16384, forward: fraction of the bare product's rate",
        0.60,
        ratio("bfloat16", 16384, PRODUCT, "forward", "forward"),
    ),
    *(faster("bfloat16", count, EAGER, bound) for count, bound in ((4096, 8), (16384, 12), (65536, 14))),
    *(faster("bfloat16", count, COMPILED, bound) for count, bound in ((4096, 3), (16384, 4.5), (65536, 5))),
    *(faster("bfloat16", count, MM, bound) for count, bound in ((4096, 1.3), (16384, 1.5), (65536, 1.7))),
    faster("float32", 16384, EAGER, 4.3),
    Target(
        "bfloat16, B = 128: times faster than eager reference, wall clock",
        20,
        ratio("bfloat16", 128, EAGER, "wall", "wall"),
    ),
    *(
        Target(
            f"bfloat16, B = {count}: backward where all chose one text and one image, times that of random choices",
            1.5,
            ratio("bfloat16", count, OURS, "backward with hubs", "backward"),
            at_least=False,
        )
        for count in (4096, 16384, 65536)
    ),
    Target("bfloat16, B = 128: kernels of a step", 2, quantity("bfloat16", 128, "kernels"), at_least=False),
    *(
        Target(
            f"bfloat16, B = {count}: extra memory, bytes per pair (and 32 that each stream keeps)",
            96,
            quantity("bfloat16", count, "extra", 1 / count),
            at_least=False,
        )
        for count in (4096, 16384, 65536)
    ),
)


def values_of(records: list[dict[str, Any]]) -> Values:
    found: dict[tuple[str, int, int, str, str], float] = {}
    for record in records:
        setting = (record["dtype"], record["count"], record["width"], record["form"])
        found |= {(*setting, name): value for name, value in record["values"].items() if value is not None}
    return found
