"""The GPU gate's own logic, with steps that need no GPU."""

import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


gate, kernels_report = load("gpu_gate"), load("kernels_report")


def step(name, code, stage=0, limit=30.0, **options):
    return gate.Step(name, (sys.executable, "-c", code), limit, stage, **options)


def states(outcomes):
    return {outcome.name: outcome.state for outcome in outcomes}


def test_a_failed_step_does_not_stop_the_next(tmp_path):
    plan = [
        step("fails", "print('why'); raise SystemExit(3)"),
        step("passes", "import os; print('with', os.environ['GIVEN'])", 1, environment={"GIVEN": "this"}),
        gate.Step("cannot start", ("/no/such/program",), 30, 2),
    ]
    failed, passed, absent = gate.carry_out(plan, 60, tmp_path / "log.txt")
    assert (failed.state, failed.detail) == (gate.FAILED, "exit status 3; last: why")
    assert (passed.state, passed.detail) == (gate.PASSED, "with this")
    assert passed.command.startswith("GIVEN=this ")
    assert absent.state == gate.FAILED and "cannot be started" in absent.detail
    log = (tmp_path / "log.txt").read_text()
    assert "==== fails: failed" in log and "why\n" in log and "with this" in log


def test_nothing_runs_after_a_build_that_failed(tmp_path):
    plan = [step("build", "raise SystemExit(1)", needed=True), step("tests", "print()", 1)]
    outcomes = gate.carry_out(plan, 60, tmp_path / "log.txt")
    assert states(outcomes) == {"build": gate.FAILED, "tests": gate.SKIPPED}
    assert outcomes[1].detail == "build failed"


def test_a_step_past_its_limit_ends_with_all_its_processes(tmp_path):
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(alive)!r}, 'w')"
    start = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}])"
    code = f"{start}; print('up', flush=True); time.sleep(60)"
    started = time.monotonic()
    (outcome,) = gate.carry_out([step("hangs", code, limit=1.0)], 60, tmp_path / "log.txt")
    assert time.monotonic() - started < 10
    assert (outcome.state, outcome.detail) == (gate.TIMED_OUT, "after 1 s; last: up")
    time.sleep(2.5)
    assert not alive.exists()


def test_the_budget_bounds_all_steps_together(tmp_path):
    plan = [step("long", "import time; time.sleep(60)"), step("late", "print()", 1)]
    long, late = gate.carry_out(plan, 1.0, tmp_path / "log.txt")
    assert (long.state, late.state) == (gate.TIMED_OUT, gate.SKIPPED)
    assert late.detail == "the time for all steps was spent"


def test_steps_of_a_stage_run_at_the_same_time(tmp_path):
    meet = (
        "import pathlib, sys, time; folder = pathlib.Path({folder!r}); (folder / {own!r}).touch()\n"
        "while not (folder / {other!r}).exists(): time.sleep(0.02)"
    )
    codes = [meet.format(folder=str(tmp_path), own=own, other=other) for own, other in (("a", "b"), ("b", "a"))]
    outcomes = gate.carry_out([step("a", codes[0]), step("b", codes[1])], 60, tmp_path / "log.txt")
    assert states(outcomes) == {"a": gate.PASSED, "b": gate.PASSED}


@pytest.mark.parametrize("code", ["print('fine | well')", "raise SystemExit(1)"])
def test_the_summary_says_what_ran(tmp_path, code):
    outcomes = gate.carry_out([step("only", code)], 60, tmp_path / "log.txt")
    gate.write_summary(tmp_path, {"gpu": "Some GPU", "commit": "abc"}, outcomes, 12.34)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["passed"] == (outcomes[0].state == gate.PASSED)
    assert summary["environment"]["gpu"] == "Some GPU"
    assert summary["steps"][0]["command"] == outcomes[0].command
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("# GPU gate: passed" if summary["passed"] else "# GPU gate: failed: only")
    assert "gpu Some GPU" in text and (not summary["passed"] or "fine \\| well" in text)


def test_the_plan_fits_its_budget_and_names_files_that_exist():
    plan = gate.steps(Path("/out"), prepared=False)
    assert sum(max(s.limit for s in plan if s.stage == stage) for stage in {s.stage for s in plan}) <= 600
    assert gate.BUDGET < 600
    names = {"build", "library", "device tests", "mining tests", "CUDA tests", "benchmarks", "mining benchmark"}
    assert {*names, *gate.SANITIZERS} == {s.name for s in plan}
    assert "build" not in {s.name for s in gate.steps(Path("/out"), prepared=True)}
    files = {word for s in plan for word in s.command if word.endswith(".py")}
    assert all((ROOT / file).is_file() for file in files), files


def test_every_test_that_takes_a_device_is_in_the_plan():
    takes_device = {
        str(path.relative_to(ROOT / "tests").with_suffix(""))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^def test_\w+\((\w+, )*device\b", path.read_text(), re.MULTILINE)
    }
    assert takes_device == {*gate.DEVICE_TESTS, "cuda/test_loss", "cuda/test_mining"}


def test_the_output_folder(monkeypatch):
    monkeypatch.setenv("OUT", "/some/where")
    assert gate.default_output("NVIDIA H200") == Path("/some/where")
    monkeypatch.delenv("OUT")
    assert gate.default_output("NVIDIA H200").name.endswith("-gpu-nvidia-h200")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_does_nothing():
    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "gpu_gate.py"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("gpu_gate: no NVIDIA GPU") and result.stderr.count("\n") == 1


PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{symbol}' for 'sm_90a'
ptxas info    : Function properties for {symbol}
    {stack} bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 1024 bytes smem
"""
NAME = "void aoq::cuda::entry<aoq::device::{}>(aoq::device::{}::Params)"


@pytest.mark.parametrize(
    ("struct", "spilled", "faulty"),
    [
        ("QuintupletBackward<float, (aoq::Similarity)0>", 0, False),
        ("QuintupletBackward<float, (aoq::Similarity)0>", 8, True),
        ("QuintupletBackward<double, (aoq::Similarity)0>", 8, False),
        ("FoldKernel<float>", 8, False),
    ],
)
def test_a_hot_kernel_that_spills_is_a_fault(monkeypatch, struct, spilled, faulty):
    monkeypatch.setattr(kernels_report, "demangle", lambda symbols: [NAME.format(struct, struct)] * len(symbols))
    (kernel,) = kernels_report.parse(PTXAS.format(symbol="_Z5entry", stack=16, spilled=spilled), "a.cu", "90a")
    assert kernel.name == struct.replace("(aoq::Similarity)", "")
    figures = (kernel.registers, kernel.spill_stores, kernel.spill_loads, kernel.stack, kernel.static_shared)
    assert figures == (168, spilled, spilled, 16, 1024)
    entry = kernels_report.Compilation("a.cu", "90a", 1.0, (kernel,))
    assert bool(kernels_report.faults([entry])) == faulty
    assert kernel.name in kernels_report.report([entry], 1.0, 2)


def test_a_file_that_does_not_compile_is_a_fault():
    entry = kernels_report.Compilation("a.cu", "80", 1.0, (), "error: expected a ';'")
    assert kernels_report.faults([entry]) == ["a.cu, sm_80 does not compile:\nerror: expected a ';'"]
