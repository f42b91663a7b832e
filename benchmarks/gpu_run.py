"""The loss and its peers on a GPU: which settings, in which order, and what is measured of each."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from forms import GPU_LOSSES, add_hubs, bare_product, training_step, unit_rows
from gpu_targets import AUTOTUNED, COMPILED, EAGER, MM, OURS, PRODUCT
from gpu_timing import (
    copy_bandwidth,
    extra_bytes,
    kernel_names,
    median_seconds,
    replay_seconds,
    synchronize,
    timings,
    wall_seconds,
)
from torch import Tensor

COUNTS = (16384, 4096, 128, 65536, 1024, 512)  # the most telling first, for time may run out
DTYPES = ("bfloat16", "float32", "float16")
HUGE = 262144  # no score matrix of this size fits
SMALL = 128  # where launches count: graphs and the wall clock
GUESS = {COMPILED: 25.0, AUTOTUNED: 90.0}  # seconds that compiling a setting takes


@dataclass(frozen=True)
class Setting:
    dtype: str
    count: int
    width: int
    form: str


def settings(counts: tuple[int, ...] = COUNTS, huge: int = HUGE) -> Iterator[Setting]:
    """Every setting once, in the order of what it tells."""
    plain = (PRODUCT, OURS, MM, EAGER)
    yield from (Setting("bfloat16", count, 1024, form) for count in counts for form in plain)
    yield from (Setting("bfloat16", count, 1024, COMPILED) for count in counts[:2])
    yield from (Setting("float32", count, 1024, form) for count in counts[:2] for form in plain)
    yield Setting("bfloat16", huge, 1024, OURS)
    yield from (Setting("bfloat16", count, 1024, COMPILED) for count in counts[3:4])
    yield from (Setting(dtype, 4096, 256, form) for dtype in DTYPES for form in plain)
    yield from (Setting("float16", count, 1024, form) for count in counts for form in plain)
    yield from (Setting("float32", count, 1024, form) for count in counts[2:] for form in plain)
    yield from (Setting(dtype, huge, 1024, OURS) for dtype in DTYPES[1:])
    yield from (Setting("bfloat16", count, 1024, COMPILED) for count in (*counts[2:3], *counts[4:]))
    yield from (Setting(dtype, count, 1024, COMPILED) for dtype in DTYPES[1:] for count in counts)
    yield from (Setting("bfloat16", count, 1024, AUTOTUNED) for count in counts)


def run_all(
    device: torch.device, seconds: float, raw: Path, environment: dict[str, Any], **sizes: Any
) -> dict[str, Any]:
    """Measure until the time is up; the file is written anew after each setting, so none is lost."""
    deadline = time.monotonic() + seconds
    report: dict[str, Any] = {"environment": environment, "records": []}
    report["copy_bandwidth"] = copy_bandwidth(device)
    for setting in settings(**sizes):
        if time.monotonic() + GUESS.get(setting.form, 0.0) > deadline:
            values: dict[str, float | None] = {}
            note = "not measured: time was up"
        else:
            values, note = measure_safely(setting, device)
        report["records"].append(asdict(setting) | {"values": values, "note": note})
        raw.write_text(json.dumps(report, indent=1) + "\n")
    return report


def measure_safely(setting: Setting, device: torch.device) -> tuple[dict[str, float | None], str]:
    """The values, or why there are none: a form that does not fit or fails does not end the run."""
    try:
        return measure(setting, device), ""
    except torch.OutOfMemoryError:
        return {}, "out of memory"
    except Exception as error:
        return {}, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        torch.compiler.reset()


def measure(setting: Setting, device: torch.device) -> dict[str, float | None]:
    """Seconds of forward, backward and both, extra bytes, kernels of a step; wall clock and replay if small.

    Of our own form also backward with hubs.
    """
    operands = unit_rows(setting.count, setting.width, getattr(torch, setting.dtype), str(device))
    if setting.form == PRODUCT:
        return {"forward": median_seconds(bare_product(operands), device)}
    loss = GPU_LOSSES[setting.form]
    step = training_step(loss, operands)
    step()  # compiles what is to be compiled
    values: dict[str, float | None] = {"extra": extra_bytes(step, operands)}
    for part, run in parts(loss, operands).items():
        values[part] = median_seconds(run, device)
    values["both"] = median_seconds(step, device)
    names = kernel_names(parts_together(loss, operands), device)
    values["kernels"] = None if names is None else float(len(names))
    if setting.count <= SMALL:
        count = timings(values["both"] or 1.0)
        values["wall"] = min(wall_seconds(step, device, count) for _ in range(3))
        if setting.form in (OURS, EAGER):
            values["replay"] = replay_seconds(parts_together(loss, operands), device)
    if setting.form == OURS:
        add_hubs(operands)
        values["backward with hubs"] = median_seconds(parts(loss, operands)["backward"], device)
    synchronize(device)
    return values


def parts(loss: Callable[..., Tensor], operands: list[Tensor]) -> dict[str, Callable[[], object]]:
    """Forward as a training step runs it, and backward of a graph that is kept."""
    value = loss(*operands)
    one = torch.ones_like(value)
    return {
        "forward": lambda: loss(*operands),
        "backward": lambda: torch.autograd.grad(value, operands, one, retain_graph=True),
    }


def parts_together(loss: Callable[..., Tensor], operands: list[Tensor]) -> Callable[[], object]:
    """Forward and backward of a gradient that is there already, as in the middle of a larger model."""
    one = torch.ones_like(loss(*operands).detach())
    return lambda: torch.autograd.grad(loss(*operands), operands, one)
