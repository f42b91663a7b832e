"""What nvcc makes of the CUDA kernels: registers, spills, memory and compile time. No GPU is needed.

    python tools/kernels_report.py [--archs 80,90a] [--jobs N] [--output FILE.json] [FILE.cu ...]

Every file is compiled for each architecture alone, as the library's build does, and thrown away. Exit status 1 where a
hot kernel spills registers to memory, or where a file does not compile.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "csrc" / "cuda"
# As CMakeLists.txt has it for a release.
FLAGS = ("-O3", "-DNDEBUG", "-std=c++20", "--expt-relaxed-constexpr", f"-I{ROOT / 'csrc'}")
GIBIBYTES_PER_JOB = 2.0
# Where the time of a step goes: a spill there is paid for in every tile or row. float64 is not among them: it is for
# checks of gradients, and its sums fill twice the registers.
HOT = (
    "HardestKernel<",
    "HubBackward<",
    "MergeKernel<",
    "MiningHitsKernel<",
    "QuintupletBackward<",
    "ScoreBackwardKernel<",
    "ScoreHardestKernel<",
)


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel; sizes in bytes."""

    source: str
    architecture: str
    name: str
    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    static_shared: int

    @property
    def is_hot(self) -> bool:
        return self.name.startswith(HOT) and "double" not in self.name

    @property
    def spills(self) -> bool:
        return bool(self.spill_stores or self.spill_loads)


@dataclass(frozen=True)
class Compilation:
    """One file for one architecture."""

    source: str
    architecture: str
    seconds: float
    kernels: tuple[Kernel, ...]
    error: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", default="80,90a", help="architectures, separated by commas (default: 80,90a)")
    parser.add_argument("--jobs", type=int, default=parallel_jobs(), help="compilers at a time")
    parser.add_argument("--output", type=Path, help="JSON file for the same figures")
    parser.add_argument("files", nargs="*", type=Path, help="default: every .cu file of csrc/cuda")
    options = parser.parse_args(arguments)
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("kernels_report: nvcc was not found; install the CUDA toolkit or set CUDACXX")
    files = options.files or sorted(SOURCES.rglob("*.cu"))
    started = time.perf_counter()
    compilations = compile_all(nvcc, files, re.split("[,; ]+", options.archs), options.jobs)
    elapsed = time.perf_counter() - started
    print(report(compilations, elapsed, options.jobs))
    if options.output:
        options.output.write_text(json.dumps([asdict(entry) for entry in compilations], indent=1) + "\n")
    return 1 if faults(compilations) else 0


def compile_all(nvcc: str, files: Iterable[Path], architectures: Sequence[str], jobs: int) -> list[Compilation]:
    """The largest files first, so that none is left alone at the end."""
    files = sorted(files, key=lambda file: -weight(file))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        tasks = [
            pool.submit(compile_one, nvcc, file, architecture, Path(folder))
            for file in files
            for architecture in architectures
        ]
        return sorted((task.result() for task in tasks), key=lambda entry: (entry.source, entry.architecture))


def weight(file: Path) -> int:
    """A guess at how long a file compiles: its explicit instantiations."""
    return file.read_text().count("\ntemplate ")


def compile_one(nvcc: str, file: Path, architecture: str, folder: Path) -> Compilation:
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    name = os.path.relpath(file, SOURCES)  # of two folders' bfloat16.cu
    output = folder / f"{name.replace(os.sep, '-')}.{architecture}.o"
    started = time.perf_counter()
    command = [nvcc, *FLAGS, target, "-Xptxas", "-v", "-c", str(file), "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    said = result.stdout + result.stderr
    if result.returncode:
        return Compilation(name, architecture, seconds, (), said.strip())
    return Compilation(name, architecture, seconds, tuple(parse(said, name, architecture)))


def parse(said: str, source: str, architecture: str) -> list[Kernel]:
    """What `ptxas -v` says of each entry function."""
    blocks = re.split(r"Compiling entry function '(\w+)' for '\w+'", said)[1:]
    symbols, texts = blocks[::2], blocks[1::2]

    def number(pattern: str, text: str) -> int:
        found = re.search(pattern, text)
        return int(found.group(1)) if found else 0

    return [
        Kernel(
            source=source,
            architecture=architecture,
            name=readable(name),
            registers=number(r"Used (\d+) registers", text),
            spill_stores=number(r"(\d+) bytes spill stores", text),
            spill_loads=number(r"(\d+) bytes spill loads", text),
            stack=number(r"(\d+) bytes stack frame", text),
            static_shared=number(r"(\d+) bytes smem", text),
        )
        for name, text in zip(demangle(symbols), texts, strict=True)
    ]


def demangle(symbols: Sequence[str]) -> list[str]:
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if tool is None or not symbols:
        return list(symbols)
    return subprocess.run([tool, *symbols], capture_output=True, text=True, check=True).stdout.splitlines()


def readable(name: str) -> str:
    """The kernel's struct, out of `void aoq::cuda::entry<Struct>(Struct::Params)`, without namespaces and casts."""
    if found := re.match(r"void aoq::cuda::entry<(.*)>\(", name):
        name = found.group(1)
    name = re.sub(r"aoq::(device::|cuda::)*", "", name)
    name = re.sub(r"\((?:\w+::)*\w+\)(-?\w+)", r"\1", name)  # (Similarity)2 -> 2
    return re.sub(r"\s+>", ">", name).strip()


def faults(compilations: Iterable[Compilation]) -> list[str]:
    """What makes the exit status 1, a sentence each."""
    found = []
    for entry in compilations:
        where = f"{entry.source}, sm_{entry.architecture}"
        if entry.error:
            found.append(f"{where} does not compile:\n{entry.error}")
        for kernel in entry.kernels:
            if kernel.is_hot and kernel.spills:
                traffic = f"{kernel.spill_stores} bytes stored, {kernel.spill_loads} loaded"
                found.append(f"{where}: {kernel.name} spills ({traffic})")
    return found


def report(compilations: Sequence[Compilation], elapsed: float, jobs: int) -> str:
    """Markdown."""
    lines = [
        "| kernel | architecture | registers | spill stores | spill loads | stack | static shared |",
        "|---|---|---|---|---|---|---|",
    ]
    for kernel in (kernel for entry in compilations for kernel in entry.kernels):
        name = f"**{kernel.name}**" if kernel.is_hot else kernel.name
        figures = (kernel.registers, kernel.spill_stores, kernel.spill_loads, kernel.stack, kernel.static_shared)
        lines.append(f"| {name} | sm_{kernel.architecture} | " + " | ".join(map(str, figures)) + " |")
    lines += ["", "Hot kernels are in bold; sizes are bytes.", "", "| file | architecture | kernels | seconds |"]
    lines.append("|---|---|---|---|")
    lines += [
        f"| {entry.source} | sm_{entry.architecture} | {len(entry.kernels)} | {entry.seconds:.1f} |"
        for entry in compilations
    ]
    spent = sum(entry.seconds for entry in compilations)
    lines += ["", f"{elapsed:.0f} s in all, {jobs} compilers at a time; {spent:.0f} s one after another."]
    problems = faults(compilations)
    lines += ["", *problems] if problems else ["", "No hot kernel spills."]
    return "\n".join(lines)


def find_nvcc() -> str | None:
    """The CUDA compiler, as setup.py looks for it."""
    if chosen := os.environ.get("CUDACXX"):
        return shutil.which(chosen)
    return shutil.which(f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin/nvcc") or shutil.which("nvcc")


def parallel_jobs() -> int:
    machine = runpy.run_path(str(ROOT / "aoq_ext/_machine.py"))  # the package needs torch
    memory, cores = machine["available_memory"]() / 2**30, int(machine["available_cores"]())
    return max(1, min(cores, int(memory / GIBIBYTES_PER_JOB)))


if __name__ == "__main__":
    sys.exit(main())
