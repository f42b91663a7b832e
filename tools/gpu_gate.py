"""Everything that only a machine with an NVIDIA GPU can show, in one command and under ten minutes, without network.

    python tools/gpu_gate.py [--prepared] [--output DIR] [--budget SECONDS] [--only STEP ...]

Builds the library (or takes the one beside the package, --prepared), runs the tests on the GPU, compute-sanitizer's
four tools, what only a GPU has (tests/cuda/test_loss.py), and the benchmarks. A step that fails does not stop the next,
unless it is the build. One folder receives summary.json, summary.md, log.txt and the results of the benchmarks:
--output, else $OUT, else benchmarks/results/<date>-gpu-<name>. Exit status: 0, 1 where a step failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import repeat
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 570.0  # seconds
PASSED, FAILED, TIMED_OUT, SKIPPED = "passed", "failed", "timed out", "not run"
# The tests of the kernels: those that take the device fixture.
DEVICE_TESTS = (
    "loss/test_loss",
    "loss/test_scores",
    "loss/test_selection",
    "loss/test_errors",
    "loss/test_torch_interplay",
    "loss/test_reference",
    "loss/test_fuzz",
)
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
SETTINGS = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}  # the package need not be installed
TEST_PROCESSES = 6  # beside the sanitizers; float64 truth on the CPU is most of the work


@dataclass(frozen=True)
class Step:
    """A command with a time limit; steps with the same stage run at the same time."""

    name: str
    command: tuple[str, ...]
    limit: float  # seconds
    stage: int
    environment: Mapping[str, str] = field(default_factory=dict)
    needed: bool = False  # nothing after it makes sense where it fails


@dataclass(frozen=True)
class Outcome:
    name: str
    state: str
    seconds: float
    command: str
    detail: str = ""  # the exit status, the reason, or the last line it printed


def steps(output: Path, prepared: bool) -> list[Step]:
    """The gate itself; were every stage to need its limit, the last would be cut short."""
    python = sys.executable
    tests = tuple(f"tests/{name}.py" for name in DEVICE_TESTS)
    spread = ("-n", str(TEST_PROCESSES)) if importlib.util.find_spec("xdist") else ()
    plan = [
        Step("library", (python, "-m", "aoq_ext", "doctor"), 25, 1, needed=True),
        Step("device tests", (python, *PYTEST, "--device", "cuda", *spread, *tests), 165, 2, {"OMP_NUM_THREADS": "2"}),
        Step(
            "mining tests",
            (python, *PYTEST, "--device", "cuda", "tests/cuda/test_mining.py"),
            165,
            2,
            {"OMP_NUM_THREADS": "2"},
        ),
        *(sanitizer_step(tool) for tool in SANITIZERS),
        Step("CUDA tests", (python, *PYTEST, "--device", "cuda", "tests/cuda/test_loss.py"), 100, 3),
        Step(
            "benchmarks",
            (python, "benchmarks/run.py", "--device", "cuda", "--output", str(output), "--seconds", "75"),
            105,
            4,
        ),
        Step(
            "mining benchmark",
            (python, "benchmarks/gpu_mining.py", "--device", "cuda", "--output", str(output), "--seconds", "35"),
            55,
            5,
        ),
    ]
    if not prepared:
        build = (python, "setup.py", "build_ext", "--inplace")
        plan.insert(0, Step("build", build, 150, 0, {"AOQ_REQUIRE_CUDA": "1"}, needed=True))
    return plan


def sanitizer_step(tool: str) -> Step:
    """torch's allocator hands out plain allocations, so that a step past the end of one is seen.

    Our kernels alone are watched, but for initcheck, which must see who writes what they read.
    """
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    program = shutil.which("compute-sanitizer") or f"{home}/bin/compute-sanitizer"
    options = ("--tool", tool, "--error-exitcode", "9", "--print-limit", "20")
    kernels = () if tool == "initcheck" else ("--kernel-name", "kns=aoq")
    command = (program, *options, *kernels, sys.executable, "tools/gpu_exercise.py", "--device", "cuda")
    return Step(tool, command, 165, 2, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", action="store_true", help="take the compiled library beside the package")
    parser.add_argument("--output", type=Path, help="folder for the result files")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps alone, by their names in the summary")
    options = parser.parse_args(arguments)
    gpu = find_gpu()
    if isinstance(gpu, str):
        print(f"gpu_gate: {gpu}", file=sys.stderr)
        return 2
    output = options.output or default_output(gpu["gpu"])
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    plan = steps(output, options.prepared)
    if unknown := set(options.only or ()) - {step.name for step in plan}:
        parser.error(f"no step is called {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in plan)}")
    plan = [step for step in plan if not options.only or step.name in options.only]
    started = time.monotonic()
    outcomes = carry_out(plan, options.budget, output / "log.txt")
    write_summary(output, gpu | environment(), outcomes, time.monotonic() - started)
    print(f"results: {output}")
    return 0 if all(outcome.state == PASSED for outcome in outcomes) else 1


def find_gpu() -> dict[str, str] | str:
    """Facts of the GPU, or the sentence that says why there is none."""
    try:
        import torch
    except ImportError:
        return f"{sys.executable} has no torch; name one that has: make gpu PYTHON=python3"
    if not torch.cuda.is_available():
        return (
            f"no NVIDIA GPU that torch {torch.__version__} can use was found; the gate runs on a machine with one "
            "(`nvidia-smi` shows it) and a CUDA build of torch"
        )
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "multiprocessors": str(properties.multi_processor_count),
        "torch": torch.__version__,
        "CUDA of torch": str(torch.version.cuda),
    }


def environment() -> dict[str, str]:
    """What else the results depend on."""

    def first_line(*command: str) -> str:
        try:
            answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
        except (OSError, subprocess.SubprocessError):
            return "unknown"
        return next(iter(answer.strip().splitlines()[-1:]), "unknown")

    nvcc = shutil.which("nvcc") or f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin/nvcc"
    return {
        "driver": first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "nvcc": first_line(nvcc, "--version"),
        "python": platform.python_version(),
        "cores": str(len(os.sched_getaffinity(0))),
        "date": str(date.today()),
        "commit": os.environ.get("AOQ_COMMIT") or first_line("git", "describe", "--always", "--dirty"),
    }


def default_output(gpu: str) -> Path:
    if given := os.environ.get("OUT"):
        return Path(given)
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{date.today()}-gpu-{name}"


def carry_out(plan: Sequence[Step], budget: float, log: Path) -> list[Outcome]:
    """Run the stages one after another; whatever they print goes to the log, step by step."""
    deadline = time.monotonic() + budget
    outcomes: list[Outcome] = []
    broken = ""
    with log.open("w") as record:
        for stage in sorted({step.stage for step in plan}):
            together = [step for step in plan if step.stage == stage]
            with ThreadPoolExecutor(len(together)) as pool:
                results = list(pool.map(run_step, together, repeat(deadline), repeat(broken)))
            for step, (outcome, said) in zip(together, results):
                record.write(
                    f"==== {step.name}: {outcome.state}, {outcome.seconds:.1f} s\n$ {outcome.command}\n{said}\n"
                )
                record.flush()
                print(f"{outcome.state:<10} {outcome.seconds:6.1f} s  {step.name}  {outcome.detail}", flush=True)
                outcomes.append(outcome)
                if step.needed and outcome.state != PASSED:
                    broken = step.name
    return outcomes


def run_step(step: Step, deadline: float, broken: str) -> tuple[Outcome, str]:
    """The outcome, and what the step printed. Its whole process group ends with it."""
    command = " ".join([*(f"{name}={value}" for name, value in step.environment.items()), *step.command])
    limit = min(step.limit, deadline - time.monotonic())
    if broken or limit <= 0:
        reason = f"{broken} failed" if broken else "the time for all steps was spent"
        return Outcome(step.name, SKIPPED, 0.0, command, reason), ""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            process = subprocess.Popen(
                step.command,
                cwd=ROOT,
                env=os.environ | SETTINGS | dict(step.environment),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(step.name, FAILED, 0.0, command, f"cannot be started: {error}"), ""
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end_group(process)
        said.seek(0)
        text = said.read()
    seconds = time.monotonic() - started
    last = next(iter(text.strip().splitlines()[-1:]), "")
    if status is None:
        return Outcome(step.name, TIMED_OUT, seconds, command, f"after {limit:.0f} s; last: {last}"), text
    if status:
        return Outcome(step.name, FAILED, seconds, command, f"exit status {status}; last: {last}"), text
    return Outcome(step.name, PASSED, seconds, command, last), text


def end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write_summary(output: Path, facts: Mapping[str, str], outcomes: Sequence[Outcome], seconds: float) -> None:
    good = bool(outcomes) and all(outcome.state == PASSED for outcome in outcomes)
    summary = {"passed": good, "seconds": round(seconds, 1), "environment": facts, "steps": list(map(asdict, outcomes))}
    (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    verdict = "passed" if good else "failed: " + ", ".join(o.name for o in outcomes if o.state != PASSED)
    lines = [
        f"# GPU gate: {verdict}",
        "",
        ", ".join(f"{name} {value}" for name, value in facts.items()) + f"; {seconds:.0f} s.",
        "",
        "| step | outcome | seconds | detail | command |",
        "|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        cells = (outcome.name, outcome.state, f"{outcome.seconds:.1f}", outcome.detail, f"`{outcome.command}`")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    (output / "summary.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
