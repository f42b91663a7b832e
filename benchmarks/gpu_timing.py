"""How a form is measured on a GPU: time by events, peak memory, kernels launched, graph replay, the copy bandwidth.

Without a GPU the same functions run by the wall clock, so that the whole can be tried anywhere; memory, kernels and
graphs are then None.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C._autograd import DeviceType

Run = Callable[[], object]
WARM_UP = 3
SPENT_ON_A_MEDIAN = 0.25  # seconds
FEWEST, MOST = 5, 200  # timings behind a median


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def wall_seconds(run: Run, device: torch.device, count: int) -> float:
    """Mean of `count` runs one after another, as a training loop has them: launches overlap with kernels."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(count):
        run()
    synchronize(device)
    return (time.perf_counter() - started) / count


def median_seconds(run: Run, device: torch.device) -> float:
    """Median over single runs, each between two events in the stream; warm operands, as the encoder leaves them."""
    for _ in range(WARM_UP):
        run()
    count = timings(wall_seconds(run, device, 1))
    if device.type != "cuda":
        return statistics.median(wall_seconds(run, device, 1) for _ in range(count))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    synchronize(device)
    milliseconds: list[float] = [start.elapsed_time(end) for start, end in itertools.pairwise(marks)]
    return statistics.median(milliseconds) / 1e3


def timings(seconds: float) -> int:
    return max(FEWEST, min(MOST, int(SPENT_ON_A_MEDIAN / max(seconds, 1e-9))))


def extra_bytes(step: Run, operands: Sequence[Tensor]) -> int | None:
    """Peak of torch's allocations over inputs and gradients. The keys that the kernels keep for a stream, at most 32
    bytes a pair, are CUDA's own and not among them."""
    device = operands[0].device
    if device.type != "cuda":
        return None
    for operand in operands:
        operand.grad = None
    synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        step()
    synchronize(device)
    gradients = sum(o.grad.untyped_storage().nbytes() for o in operands if o.grad is not None)
    peak = torch.cuda.max_memory_allocated(device) - before - gradients
    for operand in operands:
        operand.grad = None
    torch.cuda.empty_cache()
    return peak


def kernel_names(run: Run, device: torch.device) -> list[str] | None:
    """Every kernel that one run launches, copies and memsets apart, as torch's profiler saw them."""
    if device.type != "cuda":
        return None
    run()
    synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        synchronize(device)
    on_device = [event.name for event in profile.events() or () if event.device_type == DeviceType.CUDA]
    return [name for name in on_device if not name.lower().startswith(("memset", "memcpy"))]


def replay_seconds(run: Run, device: torch.device) -> float | None:
    """Median of replays of `run`, captured as a CUDA graph."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return median_seconds(graph.replay, device)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written by a copy in a second, between buffers far larger than any cache."""
    size = 2**30 if device.type == "cuda" else 2**26
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), device)
