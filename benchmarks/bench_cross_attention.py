"""Cross-attention scores of a batch and their gradient, against a loop over captions, in one run.

    python benchmarks/bench_cross_attention.py --items 128 --regions 36 --words 20 --width 1024 [--output FILE.md]

Random unit features, float32, on the CPU; SCAN's t2i rule. Each form computes the score of every image and every text
and, from a gradient of every score, those of images and texts. The loop, which the tests compare with, takes all images
at once for each caption. The forms take turns, so that a busy machine slows both alike. Processor time is the sum over
the threads; GFLOP/s count the three products of regions and words that ours makes, whatever the form does besides.
Memory is the growth of resident memory while a form runs once more, gradients included.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from bench_mining import resident_peak
from cpuinfo import get_cpu_info  # type: ignore[import-untyped]
from run import environment
from torch import Tensor
from torch.nn.functional import normalize

from aoq_ext.encoders import CrossAttention

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.attention_loop import plain

Form = Callable[[Tensor, Tensor], Tensor]  # images (N, R, D), texts (N, L, D) -> scores (N, N)
LOOP, OURS = "loop over captions", "aoq_ext"


@dataclass(frozen=True)
class Problem:
    items: int  # images, and texts
    regions: int
    words: int
    width: int

    def features(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        images, texts = (
            normalize(torch.randn(self.items, fragments, self.width, generator=generator), dim=-1)
            for fragments in (self.regions, self.words)
        )
        return images, texts

    def forms(self) -> dict[str, Form]:
        attention = CrossAttention("t2i")
        lengths = torch.full((self.items,), self.words)
        return {
            LOOP: lambda images, texts: plain(attention.rule, images, texts, lengths),
            OURS: lambda images, texts: attention(images, texts, lengths),
        }


def step(form: Form, images: Tensor, texts: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """weight: (N, N), the gradient of the scores -> the scores and the gradients of images and texts."""
    inputs = images.detach().requires_grad_(), texts.detach().requires_grad_()
    scores = form(*inputs)
    scores.backward(weight)
    assert inputs[0].grad is not None and inputs[1].grad is not None
    return scores.detach(), inputs[0].grad, inputs[1].grad


@dataclass
class Result:
    wall: list[float] = field(default_factory=list)  # seconds
    processor: list[float] = field(default_factory=list)
    memory: float = 0.0  # MiB


def measure(problem: Problem, rounds: int) -> dict[str, Result]:
    images, texts = problem.features()
    weight = torch.randn(problem.items, problem.items, generator=torch.Generator().manual_seed(1))
    forms = {name: partial(step, form, images, texts, weight) for name, form in problem.forms().items()}
    for loop, ours in zip(*(run() for run in forms.values()), strict=True):  # and so that each has run once
        torch.testing.assert_close(ours, loop, rtol=1e-3, atol=1e-5)
    results = {name: Result() for name in forms}
    for _ in range(rounds):
        for name, run in forms.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            results[name].wall.append(time.perf_counter() - wall)
            results[name].processor.append(time.process_time() - processor)
    for name, run in forms.items():
        ctypes.CDLL(None).malloc_trim(0)  # memory that is free already would count as none
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
        before = resident_peak()
        run()
        results[name].memory = resident_peak() - before
    return results


def table(problem: Problem, results: dict[str, Result]) -> str:
    """The results as Markdown."""
    loop = results[LOOP]
    operations = 6.0 * problem.items**2 * problem.regions * problem.words * problem.width
    machine = environment(get_cpu_info().get("brand_raw", platform.processor()))
    machine["load average of five minutes"] = f"{os.getloadavg()[1]:.1f}"  # other people's work included
    lines = [
        f"{problem.items} images × {problem.items} texts, {problem.regions} regions, {problem.words} words, D = "
        f"{problem.width}, t2i, forward and backward, float32; {len(loop.wall)} rounds.",
        ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
        "",
        "| form | least seconds | median | processor seconds | GFLOP/s | peak MiB | × loop, least | × loop, median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        least, median = min(result.wall), statistics.median(result.wall)
        lines.append(
            f"| {name} | {least:.3f} | {median:.3f} | {min(result.processor):.3f} "
            f"| {operations / least / 1e9:.0f} | {result.memory:.0f} | {min(loop.wall) / least:.1f} "
            f"| {statistics.median(loop.wall) / median:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--regions", type=int, default=36)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write the table here as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    problem = Problem(given.items, given.regions, given.words, given.width)
    text = table(problem, measure(problem, given.rounds))
    print(text)
    if given.output is not None:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
