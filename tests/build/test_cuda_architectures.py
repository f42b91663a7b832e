"""What the kernels are compiled for, and which GPUs then run them."""

import importlib
from pathlib import Path

import pytest
import torch

from aoq_ext.ops import calls as ops

NVCC_13 = "compute_75\ncompute_80\ncompute_86\ncompute_89\ncompute_90\ncompute_100\ncompute_120"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with these GPUs and this compiler: what it compiles for, and why for nothing."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "build_backend"))
    find_cuda = importlib.import_module("find_cuda")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "none"))
    for name in ("AOQ_BUILD_CUDA", "AOQ_CUDA_ARCHS", "AOQ_REQUIRE_CUDA", "CUDACXX"):
        monkeypatch.delenv(name, raising=False)

    def architectures(*capabilities, nvcc=NVCC_13, **environment):
        answers = {"nvcc": f"echo '{nvcc}'", "nvidia-smi": "printf '%s\\n' " + " ".join(capabilities)}
        if not capabilities:
            answers["nvidia-smi"] = "exit 9"
        for program, answer in answers.items():
            (tmp_path / program).write_text(f"#!/bin/sh\n{answer}\n")
            (tmp_path / program).chmod(0o755)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return find_cuda.cuda_architectures()

    return architectures


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (["8.0"], "80"),
        (["9.0"], "90a;90-virtual"),  # 90a runs nowhere else
        (["8.6", "9.0", "9.0"], "86;90a"),
        (["7.5", "8.9"], "89"),  # what is too old is left out
        (["12.0"], "120"),
        (["12.1"], "120"),  # not known to this compiler: translated
        (["10.0", "9.9"], "90a;100"),
        ([], "80;90a"),
    ],
)
def test_compiled_for_the_gpus_that_are_here(capabilities, expected, machine):
    assert machine(*capabilities) == (expected, "")


def test_a_compiler_that_lists_nothing_is_believed_to_know_the_gpu(machine):
    assert machine("8.6", nvcc="") == ("86", "")


def test_gpus_that_are_all_too_old_leave_the_cpu_part(machine):
    architectures, reason = machine("7.0", "7.5")
    assert architectures == ""
    assert reason == "sm_75 is the latest GPU of this machine, and the kernels need sm_80"
    with pytest.raises(SystemExit, match=r"AOQ_REQUIRE_CUDA=1, but sm_75 is the latest GPU .* AOQ_CUDA_ARCHS"):
        machine("7.5", AOQ_REQUIRE_CUDA="1")


def test_named_architectures(machine):
    assert machine("7.5", AOQ_CUDA_ARCHS="80,90a") == ("80;90a", "")
    assert machine(AOQ_CUDA_ARCHS="90a 100f") == ("90a;100f;90-virtual", "")
    with pytest.raises(SystemExit, match="AOQ_CUDA_ARCHS must be 80 or later, got 75"):
        machine(AOQ_CUDA_ARCHS="75;80")


@pytest.mark.parametrize(
    ("compiled", "capability", "runs"),
    [
        ("", (9, 0), False),
        ("80;90a", (8, 6), True),
        ("80;90a", (12, 0), True),
        ("80;90a", (7, 5), False),
        ("90a", (9, 0), True),
        ("90a", (10, 0), False),
        ("90a", (8, 0), False),
        ("90a;90-virtual", (10, 0), True),
        ("90-virtual", (8, 9), False),
        ("100f", (10, 3), True),
        ("100f", (12, 0), False),
        ("103f", (10, 0), False),
        ("120", (12, 1), True),
        ("86", (8, 0), False),
    ],
)
def test_which_gpus_run_what_was_compiled(compiled, capability, runs, monkeypatch):
    monkeypatch.setitem(ops.BUILD_FACTS, "cuda_architectures", compiled)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert ops._has_cuda_kernel.__wrapped__(0) is runs
