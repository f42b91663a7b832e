"""Forward and backward of the loss against its peers, by the clock; run by benchmarks/run.py.

On the CPU, or where AOQ_BENCH_DEVICE says; a GPU's events, memory and kernels are measured by gpu_run.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from forms import FLOORS, LOSSES, settle_allocator, training_step, unit_rows

DEVICE = os.environ.get("AOQ_BENCH_DEVICE", "cpu")
WIDTH = 1024
ROUNDS = {128: 200, 1024: 20, 4096: 5}


@pytest.mark.parametrize("count", ROUNDS)
@pytest.mark.parametrize("form", [*FLOORS, *LOSSES])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss(benchmark: Any, dtype: str, form: str, count: int) -> None:
    settle_allocator()
    operands = unit_rows(count, WIDTH, getattr(torch, dtype), DEVICE)
    run = FLOORS[form](operands) if form in FLOORS else training_step(LOSSES[form], operands)
    benchmark.group = f"{count} × {WIDTH} {dtype}"
    benchmark.extra_info.update(form=form, count=count, width=WIDTH, dtype=dtype)
    benchmark.pedantic(finished(run), rounds=ROUNDS[count], warmup_rounds=max(3, ROUNDS[count] // 10))


def finished(run: Callable[[], None]) -> Callable[[], None]:
    """`run` until the device has done it."""
    if DEVICE == "cpu":
        return run

    def run_and_wait() -> None:
        run()
        torch.cuda.synchronize(DEVICE)

    return run_and_wait


def test_the_forms_agree() -> None:
    operands = unit_rows(64, 32, torch.float64, DEVICE)
    values = [loss(*operands).item() for loss in LOSSES.values()]
    assert values == pytest.approx([values[0]] * len(values), rel=1e-6)
