"""Plants the bugs of mutations.py in copies of the kernels and asks whether the tests notice, without a GPU.

    python -m tests.simt.mutate [--jobs N] [--only TEXT] [--all]

Writes MUTATIONS.md. A bug that was caught is not planted again unless its file or its entry has changed, or with --all.
The same tests must pass without any bug.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Lock
from typing import Any

from .build import BUILD, ROOT, environment, prefix
from .mutations import MUTATIONS, Mutation

TABLE = ROOT / "tests" / "simt" / "MUTATIONS.md"
FOLDER = BUILD / "mutants"
SECONDS = 600  # a mutant may hang
# What a sanitizer runs where the whole test file saw nothing.
SMALL = {
    "forward": "test_widths and 40 or test_candidates_tie",
    "backward": "test_rows_of_a_gathered or test_hub and 12",
    "score": "test_forward_objectives or test_backward_of_some_rows",
    "mining": "test_sizes and 33 or test_depths",
}
EVERYTHING = "test"


def make_tree(tree: Path) -> None:
    """A copy of the kernels and their tests, with what is compiled; what was compiled there before is kept."""
    for folder in ("csrc", "tests"):
        shutil.copytree(
            ROOT / folder, tree / folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    shutil.copy2(ROOT / "pyproject.toml", tree)
    built = tree / BUILD.relative_to(ROOT) / "plain"
    if not built.exists():
        shutil.copytree(BUILD / "plain", built)


def plant(mutation: Mutation, tree: Path) -> None:
    source = (ROOT / "csrc" / mutation.file).read_text()
    if source.count(mutation.text) != 1:
        raise ValueError(f"{mutation.file}: found {source.count(mutation.text)} times: {mutation.text}")
    (tree / "csrc" / mutation.file).write_text(source.replace(mutation.text, mutation.replacement))


def remove(mutation: Mutation, tree: Path) -> None:
    shutil.copy2(ROOT / "csrc" / mutation.file, tree / "csrc" / mutation.file)


def build(binding: str, flavour: str, tree: Path) -> None:
    """A mutant that does not compile has not been caught: it is an error in the list."""
    code = f"from tests.simt.build import build; build({binding!r}, {flavour!r})"
    result = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(result.stderr)


def what_was_seen(output: str, status: int) -> str:
    for line in output.splitlines():
        if match := re.match(r"SUMMARY: (\w+Sanitizer: [\w-]+(?: \w+)?)", line):
            return match[1].split(" /")[0]
        if match := re.match(r"(?:FAILED|ERROR) tests/simt/\w+\.py::(\S+)", line):
            return match[1]
    return f"exit status {status}"


def run_tests(binding: str, tests: str, flavour: str, tree: Path) -> str:
    """What failed; empty if nothing did."""
    build(binding, flavour, tree)
    files = [f"tests/simt/test_{binding}.py", "tests/simt/test_mutations.py"]
    chosen = ["-k", f"({tests}) and not mutant and not list"]
    options = ["-x", "-q", "-rfE", "--capture=no", "--tb=line", "-p", "no:cacheprovider", "-W", "ignore"]
    command = [*prefix(flavour), sys.executable, "-m", "pytest", *options, *chosen, *files]
    try:
        result = subprocess.run(
            command, cwd=tree, env=environment(flavour), capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return "hang"
    if result.returncode == 5:
        raise ValueError(f"{binding}: no test is {tests!r}")
    seen = what_was_seen(result.stdout + result.stderr, result.returncode) if result.returncode != 0 else ""
    return f"{flavour}: {seen}" if seen and flavour != "plain" and "Sanitizer" not in seen else seen


def stages(mutation: Mutation) -> list[tuple[str, str]]:
    """(tests, flavour), the likeliest to notice first."""
    rest = [(EVERYTHING, "plain"), (SMALL[mutation.binding], "tsan"), (SMALL[mutation.binding], "asan")]
    return [(mutation.tests, mutation.flavour), *rest]


def try_mutation(mutation: Mutation, tree: Path) -> dict[str, Any]:
    started = time.time()
    plant(mutation, tree)
    try:
        for tests, flavour in stages(mutation):
            if caught_by := run_tests(mutation.binding, tests, flavour, tree):
                break
    finally:
        remove(mutation, tree)
    return {"caught_by": caught_by, "seconds": round(time.time() - started)}


def selections_of(chosen: list[Mutation]) -> list[tuple[str, str, str]]:
    """(binding, tests, flavour): what must pass where no bug was planted."""
    selections: dict[tuple[str, str], set[str]] = {}
    for mutation in chosen:
        for tests, flavour in stages(mutation):
            selections.setdefault((mutation.binding, flavour), set()).add(tests)
    return [
        (binding, EVERYTHING if flavour == "plain" else " or ".join(f"({one})" for one in sorted(tests)), flavour)
        for (binding, flavour), tests in sorted(selections.items())
    ]


def fingerprint(mutation: Mutation) -> str:
    content = (ROOT / "csrc" / mutation.file).read_text()
    return hashlib.sha256(f"{content}\0{mutation.text}\0{mutation.replacement}".encode()).hexdigest()


def processor() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} processors"


def as_code(text: str) -> str:
    short = " ".join(text.split()).replace("|", "\\|")
    return f"`{short}`" if short else "(nothing)"


def table(records: dict[str, Any], jobs: int) -> str:
    rows, caught, planted, by, kinds = [], 0, 0, Counter[str](), Counter[str]()
    for number, mutation in enumerate(MUTATIONS, 1):
        record = records.get(fingerprint(mutation))
        seen = record["caught_by"] if record else "not planted yet"
        planted += bool(record)
        caught += bool(record and seen)
        kinds[mutation.kind] += 1
        if record and seen:
            by["a sanitizer" if "Sanitizer" in seen else "a test"] += 1
        survived = f"**SURVIVED**{': ' if mutation.note else ''}{mutation.note}"
        outcome = seen if not record else as_code(seen) if seen else survived
        cells = [
            str(number), mutation.kind, f"`{mutation.file.removeprefix('cuda/')}`",
            f"{as_code(mutation.text)} → {as_code(mutation.replacement)}", outcome,
            str(record["seconds"]) if record else "",
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    lines = [
        "# Bugs planted in the kernels, and what caught them",
        "",
        f"**{caught} of {planted} caught ({100 * caught / max(planted, 1):.1f} %)**, none of them with a GPU: "
        f"{by['a test']} by a test, {by['a sanitizer']} by a sanitizer. "
        f"{len(MUTATIONS) - planted} more are listed and were not planted yet.",
        "",
        "Written by `python -m tests.simt.mutate --jobs "
        f"{jobs}` on {processor()}; g++ -O1. Seconds include compiling. A bug was caught by the first failure; "
        "the tests pass without any bug.",
        "",
        "Kinds: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()) + ".",
        "",
        "| # | Kind | File | Bug | Caught by | s |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="bugs whose kind, file or text contains this")
    parser.add_argument("--all", action="store_true", help="those that were caught before too")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    results = FOLDER / "results.json"
    records: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    chosen = [
        mutation
        for mutation in MUTATIONS
        if options.only in f"{mutation.kind} {mutation.file} {mutation.text}"
        and (options.all or not records.get(fingerprint(mutation), {}).get("caught_by"))
    ]
    trees: Queue[Path] = Queue()
    lock = Lock()
    for job in range(options.jobs):
        make_tree(FOLDER / str(job))
        trees.put(FOLDER / str(job))

    def in_a_tree(task: Callable[[Path], Any]) -> Any:
        tree = trees.get()
        try:
            return task(tree)
        finally:
            trees.put(tree)

    def plant_one(mutation: Mutation) -> None:
        try:
            record = in_a_tree(lambda tree: try_mutation(mutation, tree))
        except (RuntimeError, ValueError) as error:
            print(f"ERROR {mutation.file}: {mutation.name}\n{error}", flush=True)
            return
        with lock:
            records[fingerprint(mutation)] = record
            results.write_text(json.dumps(records, indent=1))
        print(
            f"{record['seconds']} s  {record['caught_by'] or 'SURVIVED'}  {mutation.file}: {mutation.name}", flush=True
        )

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(plant_one, chosen))
        selections = selections_of(chosen)
        failures = list(pool.map(lambda one: in_a_tree(lambda tree: run_tests(*one, tree)), selections))
    for selection, failure in zip(selections, failures):
        print(f"without any bug, {selection[0]}, {selection[2]}: {failure or 'passes'}")
    if any(failures):
        return 1
    TABLE.write_text(table(records, options.jobs))
    outcomes = [records.get(fingerprint(mutation), {}).get("caught_by") for mutation in MUTATIONS]
    return int(sum(map(bool, outcomes)) < 0.95 * len(MUTATIONS))


if __name__ == "__main__":
    sys.exit(main())
