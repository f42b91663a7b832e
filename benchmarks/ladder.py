"""The paper's ablation ladder on the bundled data: four objectives, several seeds, the same budget each.

    python benchmarks/ladder.py --seeds 5 --work runs/ladder

For each seed, the first round trains with online triplets; its best weights mine the offline lists; the other three
objectives train from random weights with the same seed, the same data order and the same number of steps. Everything is
evaluated on the test splits at the epoch with the best (smoothed) validation rsum.

Runs that are finished in ``--work`` are kept, and one that was cut short goes on, so the command can be repeated until
it is through. Results: ``ladder.json`` (every figure of every run) and ``ladder.md`` (the tables), in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aoq_ext._files import write_bytes_atomically
from aoq_ext.training import (
    OfflineLists,
    TrainConfig,
    evaluate_run,
    load_config,
    load_run,
    mine_run,
    train,
)
from aoq_ext.training.config import ConfigError, Objective
from aoq_ext.training.history import History
from aoq_ext.training.offline import fingerprint_weights
from aoq_ext.training.run import RunFiles

LADDER: tuple[Objective, ...] = ("online_triplet", "offline_triplet", "offline_quintuplet", "adaptive_quintuplet")
SPLITS = ("test", "test_openmoji", "test_style")
TITLES = {
    "test": "unseen concepts, seen drawing styles",
    "test_openmoji": "unseen concepts, unseen drawing style",
    "test_style": "seen concepts, unseen drawing style",
}
MEASURE = "rsum"


def configuration(base: TrainConfig, work: Path, seed: int, objective: Objective, threads: int) -> TrainConfig:
    folder = work / f"seed{seed}"
    lists = None if objective == LADDER[0] else str(folder / "lists")
    return replace(
        base,
        run=str(folder / objective),
        seed=seed,
        threads=threads,
        on_collapse="warn",  # a collapsed run is a result too
        loss=replace(base.loss, objective=objective),
        offline=replace(base.offline, lists=lists),
    )


def carry_out(config: TrainConfig) -> tuple[int, str, float]:
    """One run with its evaluation, and the mining that follows a first round; (seed, objective, seconds)."""
    started = time.perf_counter()
    with open(os.devnull, "w") as quiet:
        from rich.console import Console

        train(config, resume=True, console=Console(file=quiet))
    run = load_run(config.run)
    torch.set_num_threads(config.threads or 1)
    if config.loss.objective == LADDER[0]:
        folder = Path(config.run).parent / "lists"
        if not mined_with(folder, fingerprint_weights(run.model.state_dict())):
            mine_run(run, config.offline.top_texts, config.offline.top_images).save(folder)
    for split in SPLITS:
        evaluate_run(run, split)
    return config.seed, config.loss.objective, time.perf_counter() - started


def mined_with(folder: Path, weights: str) -> bool:
    try:
        return OfflineLists.load(folder).weights_fingerprint == weights
    except ConfigError:
        return False


def finished(config: TrainConfig) -> bool:
    """Whether nothing is left to do for this run, under this configuration."""
    files = RunFiles(config.run)
    if not files.metrics.is_file() or not files.history.is_file():
        return False
    known = json.loads(files.metrics.read_text())
    complete = len(History.load(files.history).epochs) == config.epochs and all(split in known for split in SPLITS)
    return complete and replace(load_config(files.config), threads=config.threads) == config


def carry_out_all(configs: Iterable[TrainConfig], jobs: int) -> None:
    waiting = [config for config in configs if not finished(config)]
    if not waiting:
        return
    context = multiprocessing.get_context("spawn")  # a forked child would inherit torch's threads in an unknown state
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = [pool.submit(carry_out, config) for config in waiting]
        for count, future in enumerate(as_completed(futures), 1):
            seed, objective, seconds = future.result()
            print(f"[{count}/{len(waiting)}] seed {seed} {objective}: {seconds:.0f} s", flush=True)


def collect(work: Path, seeds: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """objective -> split -> the result of each seed"""
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for objective in LADDER:
        known = [json.loads(RunFiles(work / f"seed{seed}" / objective).metrics.read_text()) for seed in range(seeds)]
        results[objective] = {split: [entry[split] for entry in known] for split in SPLITS}
    return results


def table(results: dict[str, dict[str, list[dict[str, Any]]]], split: str) -> list[str]:
    """Mean ± standard deviation over the seeds, and paired differences with their standard error and signs."""
    images = results[LADDER[0]][split][0]
    lines = [
        f"### {split}: {TITLES[split]} ({images['images']} images, {images['captions']:,} captions)",
        "",
        "| objective | rsum | image→text R@1 | text→image R@1 | against the rung before | against online_triplet |",
        "|---|---|---|---|---|---|",
    ]
    for rung, objective in enumerate(LADDER):
        entries = results[objective][split]
        cells = [spread([entry[key] for entry in entries]) for key in (MEASURE, "i2t_r1", "t2i_r1")]
        for other in (LADDER[rung - 1] if rung else None, LADDER[0] if rung else None):
            if other is None:
                cells.append("–")
                continue
            pairs = zip(entries, results[other][split], strict=True)
            cells.append(difference([mine[MEASURE] - theirs[MEASURE] for mine, theirs in pairs]))
        lines.append(f"| {objective} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def difference(values: list[float]) -> str:
    """Mean and its standard error over the seeds, Student's t, and how many seeds gained."""
    mean = statistics.mean(values)
    gained = f"{sum(value > 0 for value in values)} of {len(values)} seeds gained"
    if len(values) < 2 or statistics.stdev(values) == 0:
        return f"{mean:+.1f} ({gained})"
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.1f} ± {error:.1f} (t = {mean / error:.1f}; {gained})"


def report(results: dict[str, dict[str, list[dict[str, Any]]]], seeds: int, base: TrainConfig, command: str) -> str:
    last = seeds - 1
    lines = [
        "# The ablation ladder on the bundled data",
        "",
        f"`{command}`: {seeds} seeds (0 to {last}), {base.epochs} epochs each, of which the first {base.warmup_epochs} "
        f"with every negative. {platform.machine()}, {os.cpu_count()} CPU cores; Python {platform.python_version()}, "
        f"torch {torch.__version__}.",
        "",
        "rsum is the sum of R@1, R@5 and R@10 in both directions (600 at most). Given are mean ± standard deviation "
        "over the seeds, and for paired differences of rsum (same seed) mean ± standard error, Student's t with "
        f"{last} degrees of freedom, and the number of seeds that gained.",
        "",
    ]
    for split in SPLITS:
        lines += table(results, split)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/ladder"), help="where the runs are kept (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where results go (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at the same time (%(default)s)")
    parser.add_argument("--config", type=Path, help="the first round; by default that of configs/emoji/round1.yaml")
    arguments = parser.parse_args()
    base = load_config(arguments.config) if arguments.config else TrainConfig()
    base = replace(base, loss=replace(base.loss, objective=LADDER[0]), offline=replace(base.offline, lists=None))
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)

    def configs(objectives: Iterable[Objective]) -> list[TrainConfig]:
        return [
            configuration(base, arguments.work, seed, objective, threads)
            for seed in range(arguments.seeds)
            for objective in objectives
        ]

    carry_out_all(configs(LADDER[:1]), arguments.jobs)
    carry_out_all(configs(LADDER[1:]), arguments.jobs)
    results = collect(arguments.work, arguments.seeds)
    chosen = f" --config {arguments.config}" if arguments.config else ""
    command = f"python benchmarks/ladder.py --seeds {arguments.seeds}{chosen}"
    raw = {
        "command": command,
        "machine": {
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "jobs": arguments.jobs,
            "threads": threads,
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "config": json.loads(json.dumps(base, default=vars)),
        "results": results,
    }
    write_bytes_atomically(arguments.out / "ladder.json", json.dumps(raw, indent=1).encode() + b"\n")
    text = report(results, arguments.seeds, base, command)
    write_bytes_atomically(arguments.out / "ladder.md", text.encode() + b"\n")
    print(text)


if __name__ == "__main__":
    main()
