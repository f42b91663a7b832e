"""What the adaptive offline quintuplet loss buys: arms of training compared on several seeds, in one command.

    python benchmarks/study/run.py --work runs/study --questions a b --seeds 5 --jobs 2

What is finished in ``--work`` is kept, and a run that was cut short goes on, so the command can be repeated until it is
through; ``--report-only`` reports what there is so far. Results, in ``--out``: DATE-study.json (settings, and every
figure of every run) and DATE-study.md (the tables); a figure, in ``--figures``.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))  # this file is a script of the package `study`

from aoq_ext._files import write_bytes_atomically  # noqa: E402
from aoq_ext._machine import available_cores, processor_name  # noqa: E402
from aoq_ext.training.config import to_dict  # noqa: E402
from study.arms import Question, prepare, questions  # noqa: E402
from study.jobs import Plan, carry_out, read_ranks, read_results  # noqa: E402
from study.report import Study, draw, report  # noqa: E402


def make_plan(asked: dict[str, Question], seeds: dict[str, int], work: Path, threads: int) -> Plan:
    plan = Plan(work.resolve(), threads)
    for letter, question in asked.items():
        plan.add(question, seeds[letter])
    return plan


def advance(plan: Plan, jobs: int) -> None:
    """Everything that is left, one line for each job that is done."""
    started = time.perf_counter()
    for done, total, folder, seconds, words in carry_out(plan, jobs):
        left = (time.perf_counter() - started) / done * (total - done) / 60
        name = folder.relative_to(plan.work)
        print(f"[{done}/{total}] {name}: {words}, {seconds:.0f} s, about {left:.0f} min left", flush=True)


def gather(asked: dict[str, Question], plan: Plan) -> Study:
    """What is finished, by setting, arm and seed."""
    finished = read_results(plan)
    runs: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    ranks = {}
    for question in asked.values():
        for arm in question.arms:
            setting = question.setting.name
            for seed in range(plan.seeds):
                folder = plan.folder(question.setting, arm.name, seed)
                if folder in finished:
                    runs.setdefault((setting, arm.name), {})[seed] = finished[folder]
                    ranks[setting, arm.name, seed] = read_ranks(folder)
    return Study(asked, runs, ranks)


def as_json(study: Study, arguments: argparse.Namespace) -> dict[str, Any]:
    questions = study.questions.values()
    settings = {question.setting.name: question.setting for question in questions}
    return {
        "command": " ".join(["python", "benchmarks/study/run.py", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "commit": _commit(),
        "machine": {"processor": processor_name(), "cores": available_cores(), "system": platform.system()},
        "jobs": arguments.jobs,
        "threads": arguments.threads,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("aoq_ext", "torch", "numpy")},
        },
        "settings": {name: {**vars(setting), "base": to_dict(setting.base)} for name, setting in settings.items()},
        "questions": {
            letter: {
                "title": question.title,
                "setting": question.setting.name,
                "arms": [vars(arm) for arm in question.arms],
                "comparisons": list(question.comparisons()),
            }
            for letter, question in study.questions.items()
        },
        "runs": [
            {"setting": setting, "arm": arm, "seed": seed, **result}
            for (setting, arm), by_seed in study.runs.items()
            for seed, result in by_seed.items()
        ],
    }


def _commit() -> str:
    answer = subprocess.run(["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def write_report(study: Study, arguments: argparse.Namespace) -> Path:
    content = as_json(study, arguments)
    name = f"{content['date']}-study"
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(arguments.out / f"{name}.json", json.dumps(content, indent=1).encode() + b"\n")
    path = write_bytes_atomically(arguments.out / f"{name}.md", report(study, content).encode())
    if "d" in study.questions:
        arguments.figures.mkdir(parents=True, exist_ok=True)
        draw(study, arguments.figures / "study-gain.png")
    return path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="where the runs are kept (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where results go (%(default)s)")
    parser.add_argument("--figures", type=Path, default=Path("docs"), help="where the figure goes (%(default)s)")
    parser.add_argument("--scale", choices=("tiny", "features", "icons"), default="features", help="(%(default)s)")
    parser.add_argument(
        "--questions", nargs="+", help="by letter, with a number of seeds of its own as in a:3 (all of them)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 (%(default)s)")
    parser.add_argument("--jobs", type=int, default=available_cores(), help="runs at the same time (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each run (%(default)s)")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    arguments = parser.parse_args(argv)
    known = questions(arguments.scale, arguments.work.resolve())
    seeds = {}
    for word in arguments.questions or known:
        letter, _, count = word.partition(":")
        if letter not in known or not (count or "1").isdecimal():
            parser.error(f"--questions: expected letters among {', '.join(known)}, as in a or a:3, got {word!r}")
        seeds[letter] = int(count or arguments.seeds)
    asked = {letter: known[letter] for letter in seeds}
    plan = make_plan(asked, seeds, arguments.work, arguments.threads)
    try:
        if not arguments.report_only:
            prepare(arguments.scale, arguments.work.resolve())
            advance(plan, arguments.jobs)
    finally:  # what there is, where a job failed
        print(write_report(gather(asked, plan), arguments))


if __name__ == "__main__":
    main()
