"""Mining hard negatives, every way one might do it, on the same data in one run: time, memory, exactness.

    python benchmarks/bench_mining.py --anchors 20000 --candidates 100000 --width 256 --k 300 [--output FILE.md]

Random unit rows, float32, on the CPU. The forms take turns, so that a busy machine slows all alike; the least time of
each is reported. Processor time is the sum over the threads; on a shared machine, with ``--threads 1``, it says more
than the clock (threads that wait for each other are busy). Memory is the growth of resident memory, results included,
while the form runs. Exactness: how many of the first anchors' lists are those that float64 scores give, index by index.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import torch
from cpuinfo import get_cpu_info  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import normalize

from aoq_ext import mine_hard_negatives
from aoq_ext.mining import fused, keys, plain
from aoq_ext.mining.side import Side

PRODUCT_PANEL = (1024, 512)  # anchors, candidates: the fastest of those tried
TOPK_ROWS = 256
CHECKED_ROWS = 256

Found = Tensor | None  # (N, k) indices, where a form has lists


def bare_product(anchors: Tensor, candidates: Tensor, k: int, dtype: torch.dtype) -> Found:
    """Every score once, in panels, and nothing done with them: the floor of any exact miner."""
    rows, columns = PRODUCT_PANEL
    anchors, candidates = anchors.to(dtype), candidates.to(dtype)
    panel = torch.empty(rows * columns, dtype=dtype)
    for some in anchors.split(rows):
        for others in candidates.split(columns):
            torch.mm(some, others.T, out=panel[: len(some) * len(others)].view(len(some), len(others)))
    return None


def authors_loop(anchors: Tensor, candidates: Tensor, k: int) -> Found:
    """The algorithm of the paper's scripts: one anchor after another, all products of its row, summed, then top-k."""
    return torch.stack([(candidates * anchor).sum(dim=1).topk(k).indices for anchor in anchors])


def mm_topk(anchors: Tensor, candidates: Tensor, k: int) -> Found:
    """What one writes in PyTorch; its ties come in no defined order."""
    return torch.cat([torch.topk(some @ candidates.T, k).indices for some in anchors.split(TOPK_ROWS)])


def faiss_flat(anchors: Tensor, candidates: Tensor, k: int) -> Found:
    import faiss  # type: ignore[import-untyped,import-not-found,unused-ignore]

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(candidates.shape[1])
    index.add(candidates.numpy())
    return torch.from_numpy(index.search(anchors.numpy(), k)[1])


def ours(anchors: Tensor, candidates: Tensor, k: int, both: bool = False) -> Found:
    if both:
        return mine_hard_negatives(anchors, candidates, k, direction="both", k_reverse=max(1, k // 5)).indices
    return mine_hard_negatives(anchors, candidates, k).indices


def ours_with(arithmetic: int, anchors: Tensor, candidates: Tensor, k: int) -> Found:
    """The operator alone, its filter's product chosen by hand."""
    lists = keys.no_keys(len(anchors), k)
    return keys.unpack(fused.mine_tile(Side(anchors), Side(candidates), lists, None, arithmetic)[0])[0]


@dataclass(frozen=True)
class Form:
    run: Callable[[Tensor, Tensor, int], Found]
    sample: int | None = None  # anchors it is given; its time is extrapolated to all of them


FLOOR, FLOOR_BFLOAT16 = "bare product", "bare product, bfloat16"
FORMS = {
    FLOOR: Form(partial(bare_product, dtype=torch.float32)),
    FLOOR_BFLOAT16: Form(partial(bare_product, dtype=torch.bfloat16)),
    "authors' loop": Form(authors_loop, sample=20),
    "mm + topk": Form(mm_topk),
    "faiss-cpu": Form(faiss_flat),
    "aoq_ext": Form(ours),
    "aoq_ext, float32 filter": Form(partial(ours_with, 1)),
    "aoq_ext, both directions": Form(partial(ours, both=True)),
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


@dataclass
class Result:
    wall: float = float("inf")  # least seconds
    processor: float = float("inf")
    memory: float = 0.0  # MiB
    exact: str = ""


def available() -> dict[str, Form]:
    missing = importlib.util.find_spec("faiss") is None
    return {name: form for name, form in FORMS.items() if not (missing and name == "faiss-cpu")}


def measure(problem: Problem, rounds: int, forms: dict[str, Form]) -> dict[str, Result]:
    anchors, candidates = problem.embeddings()
    exact = exact_lists(anchors[:CHECKED_ROWS], candidates, problem.k)
    results = {name: Result() for name in forms}
    for form in forms.values():
        form.run(anchors[:1024], candidates[:4096], min(problem.k, 4096))
    for _ in range(rounds):
        for name, form in forms.items():
            given = anchors if form.sample is None else anchors[: form.sample]
            Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
            before = resident_peak()
            wall, processor = time.perf_counter(), time.process_time()
            found = form.run(given, candidates, problem.k)
            times = time.perf_counter() - wall, time.process_time() - processor
            scale = len(anchors) / len(given)
            result = results[name]
            result.wall, result.processor = min(result.wall, times[0] * scale), min(result.processor, times[1] * scale)
            result.memory = max(result.memory, resident_peak() - before)
            if found is not None:
                checked = min(len(found), len(exact))
                same = int((found[:checked] == exact[:checked]).all(dim=1).sum())
                result.exact = f"{same} of {checked}"
    return results


def exact_lists(anchors: Tensor, candidates: Tensor, k: int) -> Tensor:
    found, _ = plain.mine_tile(Side(anchors), Side(candidates), keys.no_keys(len(anchors), k), None)
    return keys.unpack(found)[0]


def resident_peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def table(problem: Problem, results: dict[str, Result]) -> str:
    """The results as Markdown."""
    processor = get_cpu_info().get("brand_raw", platform.processor())
    lines = [
        f"{problem.anchors:,} anchors × {problem.candidates:,} candidates × {problem.width}, k = {problem.k}, float32; "
        f"{torch.get_num_threads()} threads of {processor}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {date.today()}.",
        "",
        "| form | seconds | × bare | processor seconds | × bare | GFLOP/s | peak MiB | exact lists |",
        "|---|---|---|---|---|---|---|---|",
    ]
    floor = results[FLOOR]
    for name, result in results.items():
        sample = FORMS[name].sample
        note = f" (extrapolated from {sample} anchors)" if sample else ""
        rate = problem.operations / result.wall / 1e9
        lines.append(
            f"| {name}{note} | {result.wall:.2f} | {result.wall / floor.wall:.2f} | {result.processor:.2f} "
            f"| {result.processor / floor.processor:.2f} | {rate:.0f} | {result.memory:.0f} | {result.exact} |"
        )
    both = max(1, problem.k // 5)
    lines += ["", f"Both directions: also the {both} hardest anchors of every candidate. Bare: the float32 product."]
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
    text = table(problem, measure(problem, given.rounds, available()))
    print(text)
    if given.output is not None:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
