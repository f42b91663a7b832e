"""Run the suites and write their results: raw JSON and a table, under benchmarks/results/.

    python benchmarks/run.py [--output DIR]
    python benchmarks/run.py --device cuda [--output DIR] [--seconds S]

On a GPU the settings are measured in the order of what they tell until the time is up; a page with plots is written.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MEMORY_PROGRAM = """
import ctypes, re, sys, torch
from pathlib import Path
from forms import LOSSES, training_step, unit_rows

def resident(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

form, count = sys.argv[1], int(sys.argv[2])
training_step(LOSSES[form], unit_rows(64, 1024, torch.float32, "cpu"))()
operands = unit_rows(count, 1024, torch.float32, "cpu")
for operand in operands:
    operand.grad = torch.zeros_like(operand)  # inputs and gradients are not counted
ctypes.CDLL(None).malloc_trim(0)  # memory that is free already would count as none
Path("/proc/self/clear_refs").write_text("5")  # the peak begins again here
before = resident("VmRSS")
training_step(LOSSES[form], operands)()
print((resident("VmHWM") - before) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the result files")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    parser.add_argument("--seconds", type=float, default=1800, help="time for a GPU's settings (default: %(default)s)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.device == "cpu":
        run_on_the_cpu(options.output)
    else:
        run_on_a_gpu(options.device, options.seconds, options.output)


def run_on_a_gpu(name: str, seconds: float, output: Path) -> None:
    import torch
    from gpu_report import page, tables
    from gpu_run import run_all

    from aoq_ext.ops.calls import has_kernel

    device = torch.device(name)
    if not has_kernel(torch.empty(0, device=device)):
        raise SystemExit(f"run.py: this build of aoq_ext has no kernel for {name}; `aoq doctor` says why")
    torch.backends.cuda.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]
    raw = output / f"{date.today()}-gpu-loss.json"
    report = run_all(device, seconds, raw, environment(torch.cuda.get_device_name(device)))
    raw.with_suffix(".md").write_text(tables(report))
    raw.with_suffix(".html").write_text(page(report))
    print(tables(report))


def run_on_the_cpu(output: Path) -> None:
    raw = output / f"{date.today()}-cpu-loss.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "bench_loss.py",
        f"--benchmark-json={raw}",
        "-p",
        "no:cacheprovider",
    ]
    subprocess.run(command, cwd=HERE, check=True)
    report = json.loads(raw.read_text())
    processor = report["machine_info"]["cpu"].get("brand_raw", platform.processor())
    report = {"environment": environment(processor), "memory_mib": measure_memory(), "times": list(rows(report))}
    raw.write_text(json.dumps(report, indent=1) + "\n")
    raw.with_suffix(".md").write_text(table(report))
    print(table(report))


def environment(processor: str) -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    import aoq_ext

    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    return {
        "date": str(date.today()),
        "commit": git.stdout.strip(),
        "processor": processor,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "aoq_ext": aoq_ext.__version__,
    }


def rows(report: dict[str, Any]) -> Any:
    """One row a measurement, milliseconds."""
    for entry in report["benchmarks"]:
        stats = {key: entry["stats"][key] * 1e3 for key in ("min", "median", "iqr")}
        yield entry["extra_info"] | stats | {"rounds": entry["stats"]["rounds"]}


def measure_memory() -> dict[str, dict[str, float]]:
    """Growth of the process's peak over inputs and gradients, in MiB, each in a process of its own."""
    result: dict[str, dict[str, float]] = {}
    for form in ("aoq_ext", "eager reference", "mm + argmax + gather"):
        for count in (1024, 4096, 8192):
            command = [sys.executable, "-c", MEMORY_PROGRAM, form, str(count)]
            answer = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout
            result.setdefault(form, {})[str(count)] = round(float(answer), 1)
    return result


def table(report: dict[str, Any]) -> str:
    """Markdown: median time of each form, and how many times faster aoq_ext is."""
    facts = report["environment"]
    lines = [
        f"# Loss on the CPU, {facts['date']}",
        "",
        ", ".join(f"{key} {value}" for key, value in facts.items() if key != "date") + ".",
        "Forward + backward, random unit rows; median (minimum) in milliseconds. For all forms alike, "
        "the allocator is first brought into the state of a training process (`settle_allocator` in `forms.py`).",
        "",
        "| dtype, B × D | form | time | aoq_ext is faster by |",
        "|---|---|---|---|",
    ]

    def setting(row: dict[str, Any]) -> tuple[str, int]:
        return row["dtype"], row["count"]

    ours = {setting(row): row["median"] for row in report["times"] if row["form"] == "aoq_ext"}
    for row in sorted(report["times"], key=lambda row: (row["dtype"] != "float32", row["count"], row["median"])):
        ratio = "" if row["form"] == "aoq_ext" else f"{row['median'] / ours[setting(row)]:.2f}×"
        size = f"{row['dtype']}, {row['count']} × {row['width']}"
        lines.append(f"| {size} | {row['form']} | {row['median']:.3g} ({row['min']:.3g}) | {ratio} |")
    lines += [
        "",
        "Peak memory beyond inputs and gradients, MiB, float32, D = 1024:",
        "",
        "| form | B = 1024 | 4096 | 8192 |",
    ]
    lines += ["|---|---|---|---|"]
    for form, sizes in report["memory_mib"].items():
        lines.append(f"| {form} | " + " | ".join(f"{value:.0f}" for value in sizes.values()) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
