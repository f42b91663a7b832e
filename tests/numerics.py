"""The numerics policy, in one place: how near the truth a result must be, on any device and in every dtype.

Truth is the reference in float64 on the CPU, of the very numbers that the kernel got. A result passes when its error is
at most 2× (loss) or 3× (gradients) that of the eager reference in the same dtype on the same device, plus a tolerance
for where the eager result happens to be exact. Errors are relative to the largest magnitude of the true tensor.

A gradient changes by a whole row where a score rounds to the other side of a tie or of a hinge, in either form of the
loss, and neither side is wrong. So gradients are judged on two kinds of data: *exact*, where every score is a short
binary fraction that any order of summation gets right, so that planted ties and near-ties are the same in every dtype;
and *apart*, where every score is, in float64, further from any such place than rounding reaches (`decision_distance`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.losses import (
    DTYPES,
    EMBEDDINGS,
    HALVES,
    OBJECTIVES,
    ONLINE,
    REDUCTIONS,
    SCORES,
    SIMILARITIES,
    Form,
    allowed_negatives,
    decision_distance,
    make_operands,
    on_the_cpu,
    run,
    scores_of,
)

FORWARD_RATIO, GRADIENT_RATIO = 2, 3
# The loss is float32 for all but float64, and so is every sum; a gradient is rounded to the dtype of its operand.
# In float32 a few roundings, for the weights divide that of a score by α.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6} | {half: torch.finfo(half).eps for half in HALVES}
# Of equal scores torch.max picks any on some devices, which makes an eager gradient wrong by a row: no excuse for ours.
EAGER_AT_MOST = 16  # tolerances
# A chosen negative may score this much below the best, relative to the greatest score: rounding of a float32 sum.
SCORE_TOLERANCE = 4e-6
APART = 2e-6  # well above what rounding does to the score of unit vectors in float32


def error(result: Tensor, truth: Tensor) -> float:
    """Largest difference where the truth is finite, relative to the largest magnitude there."""
    result, truth = result.detach().double().cpu(), truth.double()
    finite = truth.isfinite()
    if not finite.any():
        return 0.0
    scale = max(truth[finite].abs().max().item(), 1e-300)
    return (result - truth)[finite].abs().max().item() / scale


def check_forward(
    form: Form, operands: Sequence[Tensor], group_ids: Tensor | None = None, exact: bool = False, **options: Any
) -> None:
    """The loss, and which negatives were chosen."""
    wide, wide_groups = on_the_cpu(operands, group_ids)
    with torch.no_grad():
        ours, eager = (loss(*operands, group_ids, **options) for loss in (form.fused, form.reference))
        truth = form.reference(*wide, wide_groups, **options)
        chosen = form.chosen(operands, group_ids, **options)
    assert ours.dtype == eager.dtype
    assert ours.shape == eager.shape
    _judge("loss", ours, eager, truth, FORWARD_RATIO, _tolerance(ours.dtype, operands, options), options)
    if len(operands[0]):
        similarity = options.get("similarity", "dot")
        scores = wide[0] if form is SCORES else scores_of(wide, similarity)[0]
        exact = ours.dtype == torch.float64 or (exact and similarity == "dot")
        judge_chosen(chosen, scores, wide_groups, exact, options)


def check_gradients(form: Form, operands: Sequence[Tensor], group_ids: Tensor | None = None, **options: Any) -> None:
    """The gradient by every operand."""
    wide, wide_groups = on_the_cpu(operands, group_ids)
    ours, eager = (run(loss, operands, group_ids, **options)[1:] for loss in (form.fused, form.reference))
    truth = run(form.reference, wide, wide_groups, **options)[1:]
    for number, (operand, *gradients) in enumerate(zip(operands, ours, eager, truth)):
        assert gradients[0].dtype == operand.dtype
        assert gradients[0].device == operand.device
        tolerance = _tolerance(operand.dtype, operands, options)
        _judge(f"gradient of operand {number}", *gradients, GRADIENT_RATIO, tolerance, options)


def check_same_every_time(
    form: Form, operands: Sequence[Tensor], group_ids: Tensor | None = None, runs: int = 2, **options: Any
) -> None:
    """Loss and gradients, bit for bit."""
    first, *others = (run(form.fused, operands, group_ids, **options) for _ in range(runs))
    for again in others:
        for value, expected in zip(again, first):
            assert torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (value, expected))), options


def _tolerance(dtype: torch.dtype, operands: Sequence[Tensor], options: dict[str, Any]) -> float:
    """With every negative, B hinges are summed in an order of the kernel's own.

    The eager sum goes in pairs and hardly rounds; one in a row walks about √B roundings away, twice that where the
    terms come from a grid and round alike.
    """
    compute = torch.float64 if operands[0].dtype == torch.float64 else torch.float32
    terms = len(operands[0]) if options.get("online") == "all" else 0
    return TOLERANCE[dtype] + 2 * math.sqrt(terms) * torch.finfo(compute).eps


def _judge(
    name: str, ours: Tensor, eager: Tensor, truth: Tensor, ratio: float, tolerance: float, options: dict[str, Any]
) -> None:
    for special in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(special(ours), special(eager)), f"{name}: {special.__name__} elsewhere; {options}"
    truth = truth.where(eager.isfinite().cpu(), math.inf)  # what overflows in this dtype has no error
    allowed = ratio * min(error(eager, truth), EAGER_AT_MOST * tolerance) + tolerance
    assert error(ours, truth) <= allowed, f"{name}: error {error(ours, truth):.3g}, allowed {allowed:.3g}; {options}"


def judge_chosen(
    chosen: Sequence[Tensor], scores: Tensor, group_ids: Tensor | None, exactly: bool, options: dict[str, Any]
) -> None:
    slack = 0.0 if exactly else SCORE_TOLERANCE * scores[scores.isfinite()].abs().max().item()
    for found, direction in zip(chosen, (scores, scores.T)):
        pool, positive = allowed_negatives(direction, group_ids, options), direction.diagonal()
        best = direction.masked_fill(~pool, -math.inf).max(dim=1).values
        tied = pool & ((direction == best[:, None]) | (direction.isnan() & best.isnan()[:, None]))
        expected = torch.where(tied & (best != -math.inf)[:, None], torch.arange(len(best)), len(best)).amin(dim=1)
        found, expected = found.cpu(), expected.where(expected < len(best), -1)
        if exactly:
            assert torch.equal(found, expected), f"chose {found.tolist()}, not {expected.tolist()}; {options}"
        else:
            assert torch.equal(found < 0, expected < 0), options
            score = direction.gather(1, found.clamp(min=0)[:, None])[:, 0]
            as_good = (score == best) | (score.isnan() & best.isnan()) | (found < 0)
            off = (score - best).abs().masked_fill(as_good, 0.0)
            assert off.max() <= slack, f"chose scores off by {off.max():.3g}, allowed {slack:.3g}; {options}"
            if options.get("online") == "semihard":
                assert not ((score >= positive + slack) & (found >= 0)).any(), options


MODES = tuple({"online": online, "reduction": "none"} for online in ONLINE)
NO_MARGIN = tuple({**mode, "margin_online": 0.0} for mode in MODES)
ZERO_HINGES = tuple({**mode, "margin_online": 0.25, "margin_offline": -0.125} for mode in MODES)
EVERY_SIMILARITY = tuple({**mode, "similarity": similarity} for mode in MODES for similarity in SIMILARITIES)
EVERY_OPTION = tuple(
    {**options, "objective": objective, "reduction": REDUCTIONS[(rung + number + number // 3) % 3]}
    for rung, objective in enumerate(OBJECTIVES)
    for number, options in enumerate(EVERY_SIMILARITY)
)
WEIGHTS = tuple(
    {**options, "detach_weight": detach, "clamp_weight": clamp, "alpha": 0.05, "beta": 0.2, "margin_offline": 0.1}
    for options in EVERY_SIMILARITY
    for detach, clamp in ((False, True), (True, False), (True, True))
)


@dataclass(frozen=True, eq=False)
class Case:
    """Operands of the embedding form, and the options they run with; the score form gets their dot products."""

    name: str
    make: Callable[[torch.dtype, int], list[Tensor]]  # (dtype, seed)
    options: Sequence[dict[str, Any]] = MODES
    groups: Callable[[int], Tensor] | None = None  # of a count
    exact: bool = True  # otherwise apart
    finite: bool = True  # otherwise there are no gradients to speak of
    dtypes: Sequence[torch.dtype] = DTYPES
    layout: Callable[[Tensor], Tensor] = Tensor.contiguous

    def inputs(self, form: Form, dtype: torch.dtype, device: torch.device) -> tuple[list[Tensor], Tensor | None]:
        operands, group_ids = self._values(dtype)
        if form is SCORES:
            operands = [score.to(dtype) for score in scores_of([operand.double() for operand in operands])]
        group_ids = None if group_ids is None else group_ids.to(device)
        return [self.layout(operand.to(device)) for operand in operands], group_ids

    def options_of(self, form: Form) -> list[dict[str, Any]]:
        if form is EMBEDDINGS:
            return list(self.options)
        dot = (options for options in self.options if options.get("similarity", "dot") == "dot")
        return [{name: value for name, value in options.items() if name != "similarity"} for options in dot]

    @cache  # noqa: B019  (cases live as long as the module)
    def _values(self, dtype: torch.dtype) -> tuple[list[Tensor], Tensor | None]:
        for seed in range(100):
            operands = [operand.to(dtype) for operand in self.make(dtype, seed)]
            group_ids = self.groups(len(operands[0])) if self.groups else None
            if self.exact or all(decision_distance(operands, group_ids, **o) > APART for o in self.options):
                return operands, group_ids
        raise AssertionError(f"{self.name}: no seed puts the scores apart")


def drawn(count: int, width: int, candidates: int = 0) -> Callable[..., list[Tensor]]:
    return lambda dtype, seed: make_operands(count, width, candidates, seed=seed)


def on_a_grid(
    count: int, width: int, candidates: int = 0, scale: dict[torch.dtype, float] | None = None
) -> Callable[..., list[Tensor]]:
    """Multiples of 1/8, so that dot products are exact, with ties; times a power of two."""

    def make(dtype: torch.dtype, seed: int) -> list[Tensor]:
        operands = make_operands(count, width, candidates, seed=seed)
        return [(operand * 8).round() / 8 * (scale or {}).get(dtype, 1.0) for operand in operands]

    return make


def with_duplicates(dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Images and texts that come several times, some of them the text of the pair itself; tied candidates."""
    operands = on_a_grid(70, 20, candidates=4)(dtype, seed)
    operands[1][1::2] = operands[1][::2]
    operands[0][2::5] = operands[0][1::5]
    for operand in operands[2:]:
        operand[:, 2:] = operand[:, :2].flip(1)
    return operands


def one_ulp_apart(dtype: torch.dtype, seed: int) -> list[Tensor]:
    """One-hot images: a score is an entry of a text, and the greatest three of these are neighbours in the dtype."""
    generator = torch.Generator().manual_seed(seed)
    entry = torch.tensor(0.75, dtype=dtype)
    near = [torch.nextafter(entry, entry.new_tensor(end)).double() for end in (0.0, 1.0)]
    values = torch.stack([torch.tensor(0.25).double(), near[0], entry.double(), near[1]])

    def draw() -> Tensor:
        return values[torch.randint(4, (90, 11), generator=generator)]

    def one_hot() -> Tensor:
        return torch.eye(11, dtype=torch.float64)[torch.randint(11, (90,), generator=generator)]

    return [one_hot(), draw(), one_hot(), draw(), one_hot(), draw()]


def signed_zeros(dtype: torch.dtype, seed: int) -> list[Tensor]:
    operands = on_a_grid(40, 9)(dtype, seed)
    operands[1] = operands[1] * 0.0  # zeros of the signs of its entries
    operands[0][::3] = -0.0
    return operands


def planted(operand: int, *values: float) -> Callable[..., list[Tensor]]:
    """Special values, one to a row."""

    def make(dtype: torch.dtype, seed: int) -> list[Tensor]:
        operands = on_a_grid(20, 8)(dtype, seed)
        for number, value in enumerate(values):
            operands[operand][3 + 2 * number, number] = value
        return operands

    return make


def same(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int32)


def threes(count: int) -> Tensor:
    return torch.arange(count) // 3


def far_ids(count: int) -> Tensor:
    return torch.arange(count) // 4 * 2**58 + 7  # not to be told apart in int32


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda rows: rows.transpose(0, -1).contiguous().transpose(0, -1),
    "padded": lambda rows: torch.nn.functional.pad(rows, (3, 5))[..., 3:-5],
    "every other row": lambda rows: rows.repeat_interleave(2, dim=0)[::2],
    "misaligned": lambda rows: torch.cat([rows.new_zeros(1), rows.flatten()])[1:].view_as(rows),
    "expanded": lambda rows: rows[:1].expand_as(rows),
}
# The greatest power of two that does not overflow a gradient, and the least that keeps its digits.
HUGE = {torch.float64: 2.0**200, torch.float32: 2.0**26, torch.float16: 2.0**2, torch.bfloat16: 2.0**26}
TINY = {torch.float64: 2.0**-200, torch.float32: 2.0**-26, torch.float16: 2.0**-7, torch.bfloat16: 2.0**-26}

CASES = [
    Case("every option", drawn(40, 19), EVERY_OPTION + WEIGHTS, exact=False),
    Case("every option, groups", drawn(33, 64), EVERY_OPTION, threes, exact=False),
    Case("every option, candidates", drawn(14, 24, 3), EVERY_OPTION, exact=False),
    Case("random", drawn(130, 100), exact=False),
    Case("duplicates", with_duplicates, MODES + NO_MARGIN),
    Case("one ulp apart", one_ulp_apart, MODES + NO_MARGIN),
    Case("one ulp apart, groups", one_ulp_apart, MODES + NO_MARGIN, threes),
    Case("every score equal", lambda dtype, seed: [torch.ones(257, 4)] * 6, MODES + NO_MARGIN),
    Case("hinges at exactly 0", on_a_grid(40, 12), ZERO_HINGES),
    Case("signed zeros", signed_zeros, MODES + NO_MARGIN),
    Case("huge", on_a_grid(40, 16, scale=HUGE), NO_MARGIN),
    Case("tiny", on_a_grid(40, 16, scale=TINY)),
    Case("one group", on_a_grid(40, 8), groups=same),
    Case("two groups", on_a_grid(40, 8), groups=lambda count: torch.arange(count) % 2),
    Case("ids beyond int32", on_a_grid(40, 8), groups=far_ids),
    *(Case(f"{count} pairs", drawn(count, 8), EVERY_SIMILARITY, exact=False) for count in (0, 1, 2)),
    *(
        Case(f"{size + near} pairs", on_a_grid(size + near, 12), groups=threes if near == 1 else None)
        for size in (32, 64, 128, 256)
        for near in (-1, 0, 1)
    ),
    *(Case(f"{count} pairs", on_a_grid(count, 8), MODES, dtypes=DTYPES[:2]) for count in (511, 513)),
    Case("513 pairs, transposed", on_a_grid(513, 8), dtypes=DTYPES[1:2], layout=LAYOUTS["transposed"]),
    Case("2049 pairs", on_a_grid(2049, 8), MODES[2:], dtypes=[torch.float32]),
    Case("2310 pairs", on_a_grid(2310, 8), MODES[1:2], threes, dtypes=[torch.float32]),
    *(
        Case(f"width {width}", drawn(6, width), EVERY_SIMILARITY, exact=False)
        for width in (7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129)
    ),
    *(Case(f"width {width}", drawn(6, width), EVERY_SIMILARITY) for width in (0, 1)),  # scores 0 or ±1
    *(Case(name, on_a_grid(37, 21, 2), layout=layout) for name, layout in LAYOUTS.items()),
    *(Case(f"NaN in operand {n}", planted(n, math.nan), finite=False) for n in range(6)),
    *(
        Case(f"infinities in operand {n}", planted(n, math.inf, -math.inf), EVERY_SIMILARITY, finite=False)
        for n in range(6)
    ),
]
