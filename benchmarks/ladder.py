"""The paper's ablation ladder on the bundled data: four models, four objectives, several seeds, the same budget each.

    python benchmarks/ladder.py --seeds 3 --work runs/ladder

For each model and seed, the first round trains with online triplets; its best weights mine the offline lists; the other
three objectives train from random weights with the same seed, the same data order and the same number of steps.
Everything is evaluated on the test splits at the epoch with the best (smoothed) validation rsum.

Runs that are finished in ``--work`` are kept, and one that was cut short goes on, so the command can be repeated until
it is through. Results: ``ladder.json`` (every figure of every run) and ``ladder.md`` (the tables), in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import torch
from ladder_report import LADDER, MODELS, SPLITS, Results, report

from aoq_ext._files import write_bytes_atomically
from aoq_ext._machine import available_cores
from aoq_ext.training import (
    OfflineLists,
    TrainConfig,
    evaluate_run,
    load_config,
    load_run,
    mine_run,
    train,
)
from aoq_ext.training.config import ConfigError, ObjectiveName, to_dict
from aoq_ext.training.history import History
from aoq_ext.training.offline import fingerprint_weights
from aoq_ext.training.run import RunFiles

CONFIGS = Path(__file__).resolve().parents[1] / "configs/emoji"


def configuration(work: Path, model: str, seed: int, objective: ObjectiveName, threads: int) -> TrainConfig:
    base = load_config(CONFIGS / MODELS[model].config)
    folder = work / model / f"seed{seed}"
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


def carry_out(config: TrainConfig) -> tuple[str, float]:
    """One run with its evaluation, and the mining that follows a first round; its folder, and seconds."""
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
    return config.run, time.perf_counter() - started


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
            run, seconds = future.result()
            print(f"[{count}/{len(waiting)}] {run}: {seconds:.0f} s", flush=True)


def collect(work: Path, models: Iterable[str], seeds: int) -> Results:
    def known(model: str, objective: str, seed: int) -> dict[str, dict[str, float]]:
        metrics: dict[str, dict[str, float]] = json.loads(
            RunFiles(work / model / f"seed{seed}" / objective).metrics.read_text()
        )
        return metrics

    results: Results = {}
    for model in models:
        results[model] = {}
        for objective in LADDER:
            entries = [known(model, objective, seed) for seed in range(seeds)]
            results[model][objective] = {split: [entry[split] for entry in entries] for split in SPLITS}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="(all of them)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/ladder"), help="where the runs are kept (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where results go (%(default)s)")
    parser.add_argument("--jobs", type=int, default=available_cores(), help="runs at the same time (%(default)s)")
    arguments = parser.parse_args()
    threads = max(1, available_cores() // arguments.jobs)

    def configs(objectives: Iterable[ObjectiveName]) -> list[TrainConfig]:
        return [
            configuration(arguments.work, model, seed, objective, threads)
            for seed in range(arguments.seeds)
            for model in arguments.models
            for objective in objectives
        ]

    carry_out_all(configs(LADDER[:1]), arguments.jobs)
    carry_out_all(configs(LADDER[1:]), arguments.jobs)
    results = collect(arguments.work, arguments.models, arguments.seeds)
    raw = {
        "command": f"python benchmarks/ladder.py --seeds {arguments.seeds}",
        "machine": {
            "architecture": platform.machine(),
            "cores": available_cores(),
            "jobs": arguments.jobs,
            "threads": threads,
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "configs": {model: to_dict(load_config(CONFIGS / MODELS[model].config)) for model in arguments.models},
        "results": results,
    }
    write_bytes_atomically(arguments.out / "ladder.json", json.dumps(raw, indent=1).encode() + b"\n")
    text = report(results, arguments.seeds, {model: load_config(CONFIGS / MODELS[model].config) for model in results})
    write_bytes_atomically(arguments.out / "ladder.md", text.encode() + b"\n")
    print(text)


if __name__ == "__main__":
    main()
