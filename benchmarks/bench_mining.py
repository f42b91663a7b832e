"""Mining against the bare product and against chunked torch.mm + torch.topk, float32 on the CPU, random unit rows.

    python benchmarks/bench_mining.py --anchors 20000 --candidates 100000 --width 256 --k 300 [--output FILE.md]

The forms take turns, so that a busy machine slows all alike; the least time of each is reported. Processor time is the
sum over the threads; on a shared machine, with ``--threads 1``, it says more than the clock (threads that wait for each
other are busy). Memory is the growth of resident memory, results included, while the form runs.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from aoq_ext import mine_hard_negatives

PRODUCT_PANEL = (1024, 512)  # anchors, candidates: the fastest of those tried
TOPK_ROWS = 256


def bare_product(anchors: Tensor, candidates: Tensor, k: int) -> None:
    """Every score once, in panels, and nothing done with them: the floor of any exact miner."""
    rows, columns = PRODUCT_PANEL
    panel = torch.empty(rows * columns)
    for some in anchors.split(rows):
        for others in candidates.split(columns):
            torch.mm(some, others.T, out=panel[: len(some) * len(others)].view(len(some), len(others)))


def mm_topk(anchors: Tensor, candidates: Tensor, k: int) -> None:
    """What one writes in PyTorch; its ties come in no defined order."""
    for some in anchors.split(TOPK_ROWS):
        torch.topk(some @ candidates.T, k)


def ours(anchors: Tensor, candidates: Tensor, k: int) -> None:
    mine_hard_negatives(anchors, candidates, k)


FORMS: dict[str, Callable[[Tensor, Tensor, int], None]] = {
    "bare product": bare_product,
    "mm + topk": mm_topk,
    "aoq_ext": ours,
}


@dataclass(frozen=True)
class Problem:
    anchors: int
    candidates: int
    width: int
    k: int

    def embeddings(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        sizes = (self.anchors, self.candidates)
        anchors, candidates = (normalize(torch.randn(rows, self.width, generator=generator), dim=1) for rows in sizes)
        return anchors, candidates

    @property
    def operations(self) -> float:
        return 2.0 * self.anchors * self.candidates * self.width


def measure_times(problem: Problem, rounds: int) -> dict[str, tuple[float, float]]:
    """Least wall-clock and least processor seconds of each form."""
    anchors, candidates = problem.embeddings()
    best = dict.fromkeys(FORMS, (float("inf"), float("inf")))
    for run in FORMS.values():
        run(anchors[:1024], candidates[:4096], min(problem.k, 4096))
    for _ in range(rounds):
        for form, run in FORMS.items():
            wall, processor = time.perf_counter(), time.process_time()
            run(anchors, candidates, problem.k)
            spent = time.perf_counter() - wall, time.process_time() - processor
            best[form] = min(best[form][0], spent[0]), min(best[form][1], spent[1])
    return best


def measure_memory(problem: Problem) -> dict[str, float]:
    """Growth of resident memory over the embeddings while each form runs, in MiB."""
    anchors, candidates = problem.embeddings()
    growth = {}
    for form, run in FORMS.items():
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
        before = resident_peak()
        run(anchors, candidates, problem.k)
        growth[form] = resident_peak() - before
    return growth


def resident_peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def table(problem: Problem, times: dict[str, tuple[float, float]], memory: dict[str, float]) -> str:
    """The results as Markdown."""
    lines = [
        f"{problem.anchors} anchors × {problem.candidates} candidates × {problem.width}, k = {problem.k}, float32; "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}.",
        "",
        "| form | seconds | × bare | processor seconds | × bare | GFLOP/s | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    floor = times["bare product"]
    for form, (wall, processor) in times.items():
        rate = problem.operations / wall / 1e9
        lines.append(
            f"| {form} | {wall:.2f} | {wall / floor[0]:.2f} | {processor:.2f} | {processor / floor[1]:.2f} "
            f"| {rate:.0f} | {memory[form]:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--k", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="write the table here as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    problem = Problem(given.anchors, given.candidates, given.width, given.k)
    text = table(problem, measure_times(problem, given.rounds), measure_memory(problem))
    print(text)
    if given.output is not None:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
