"""Whether adaptive weights that pass gradients make a model collapse from random weights, where detached ones do not.

    python benchmarks/collapse.py --seeds 3 --work runs/collapse
    python benchmarks/collapse.py --loader aoq_ext.data.load_icons

For each seed a first round with a long warm-up mines the lists. Four runs with the same seed, data order and (short)
warm-up follow: online triplets, adaptive weights attached and detached from random weights, and attached from the first
round's weights (`init`). Results: ``collapse.md`` (one row a run) and ``collapse-seed<N>.json`` (every measurement).
Runs that are finished in ``--work`` are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aoq_ext._files import write_bytes_atomically, write_json
from aoq_ext.training import CollapseError, History, TrainConfig, load_config, load_run, mine_run, train
from aoq_ext.training.config import LossConfig
from aoq_ext.training.run import RunFiles

CONFIG = Path(__file__).resolve().parents[1] / "configs/icons/round1.yaml"
ATTACHED = LossConfig(objective="adaptive_quintuplet")


@dataclass(frozen=True)
class Variant:
    name: str
    loss: LossConfig
    from_round1: bool = False


VARIANTS = (
    Variant("online_triplet", LossConfig()),
    Variant("attached", ATTACHED),
    Variant("detached", replace(ATTACHED, detach_weight=True)),
    Variant("attached, init", ATTACHED, from_round1=True),
)


def first_round(arguments: argparse.Namespace, seed: int) -> TrainConfig:
    config = load_config(arguments.config, **{"data.loader": arguments.loader, "data.root": arguments.root})
    config.data.validation_split = None  # the last weights are the best
    return replace(
        config,
        run=str(arguments.work / f"seed{seed}" / "round1"),
        seed=seed,
        epochs=arguments.first_epochs,
        warmup_epochs=arguments.first_epochs // 2,
        threads=arguments.threads,
        accelerator=arguments.accelerator,
    )


def second_round(first: TrainConfig, variant: Variant, arguments: argparse.Namespace) -> TrainConfig:
    folder = Path(first.run).parent
    return replace(
        first,
        run=str(folder / variant.name.replace(", ", "-")),
        init=first.run if variant.from_round1 else None,
        loss=variant.loss,
        offline=replace(first.offline, lists=str(folder / "lists")),
        epochs=arguments.epochs,
        warmup_epochs=arguments.warmup_epochs,
    )


def carry_out(config: TrainConfig) -> tuple[History, str]:
    """What the run measured, and how it ended."""
    files, outcome = RunFiles(config.run), "trained"
    try:
        train(config, resume=True)
    except CollapseError as error:
        outcome = "collapsed (weights named)" if "adaptive weights" in str(error) else "collapsed"
    return History.load(files.history), outcome


def measure(arguments: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """The runs of one seed, with all their steps."""
    first = first_round(arguments, seed)
    _, outcome = carry_out(first)
    if outcome != "trained":
        raise SystemExit(
            f"{first.run}: expected a first round that trains, got one that {outcome}; more --first-epochs"
        )
    lists = Path(first.run).parent / "lists"
    if not lists.is_dir():
        mine_run(load_run(first.run), first.offline.top_texts, first.offline.top_images).save(lists)
    runs = []
    for variant in VARIANTS:
        history, outcome = carry_out(second_round(first, variant, arguments))
        runs.append({"seed": seed, "variant": variant.name, "outcome": outcome, "steps": history.steps})
    return runs


def row(run: dict[str, Any], warmup_epochs: int) -> str:
    """step, gap and distance are of the last measurement; weights are of the steps after the warm-up."""
    last = run["steps"][-1]
    weights = [entry["weight"] for entry in run["steps"] if entry["epoch"] > warmup_epochs and "weight" in entry]
    mean = f"{sum(weights) / len(weights):.3f}" if weights else "1"
    start = f"{weights[0]:.3f}" if weights else "1"
    gap = f"{last['gap']:.3f}" if "gap" in last else ""
    cells = (run["variant"], run["seed"], last["step"], start, mean, gap, f"{last['distance']:.4f}", run["outcome"])
    return f"| {' | '.join(map(str, cells))} |"


def table(runs: Sequence[dict[str, Any]], warmup_epochs: int) -> str:
    names = ("variant", "seed", "step", "first weight", "mean weight", "gap a - n", "distance", "outcome")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *(row(run, warmup_epochs) for run in runs)]) + "\n"


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--config", type=Path, default=CONFIG, help="of the first round: model, optimizer (%(default)s)"
    )
    parser.add_argument("--loader", default="aoq_ext.data.load_icons", help="of the data set (%(default)s)")
    parser.add_argument("--root", help="its folder")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (%(default)s)")
    parser.add_argument("--first-epochs", type=int, default=20, help="of round 1, half of them warm-up (%(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of each run (%(default)s)")
    parser.add_argument("--warmup-epochs", type=int, default=1, help="of them (%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--accelerator", default="auto", help="(%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/collapse"), help="where runs are kept (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where results go (%(default)s)")
    arguments = parser.parse_args(given)
    runs = []
    for seed in range(arguments.seeds):
        found = measure(arguments, seed)
        write_json(arguments.out / f"collapse-seed{seed}.json", found)
        runs += found
    text = table(runs, arguments.warmup_epochs)
    write_bytes_atomically(arguments.out / "collapse.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
