"""The CUDA compiler, and the architectures that it compiles for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable

LEAST_CAPABILITY = 80  # asynchronous copies, bfloat16 tensor cores
DEFAULT_ARCHITECTURES = "80;90a"  # where no GPU says which: 80 runs on 86 and 89 too, and is translated for later ones


def find_nvcc() -> str | None:
    """The CUDA compiler: $CUDACXX, else $CUDA_HOME/bin, /usr/local/cuda/bin, the path."""
    if chosen := os.environ.get("CUDACXX"):
        if path := shutil.which(chosen):
            return path
        raise SystemExit(f"aoq_ext: CUDACXX must name an nvcc that can be run, got {chosen!r}.")
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which(f"{home}/bin/nvcc") or shutil.which("nvcc")


def cuda_architectures() -> tuple[str, str]:
    """Architectures to compile for, or '' and the reason why none."""
    if os.environ.get("AOQ_BUILD_CUDA") == "0":
        return "", "AOQ_BUILD_CUDA=0"
    nvcc = find_nvcc()
    if nvcc is None:
        return "", _unless_required("nvcc was not found", "install the CUDA toolkit")
    if given := os.environ.get("AOQ_CUDA_ARCHS"):
        if not re.fullmatch(r"\d{2,3}[af]?([;, ]\d{2,3}[af]?)*", given):
            raise SystemExit(f"aoq_ext: AOQ_CUDA_ARCHS must look like '80;90a', got {given!r}.")
        architectures = re.split("[;, ]", given)
        if old := [name for name in architectures if _number(name) < LEAST_CAPABILITY]:
            raise SystemExit(f"aoq_ext: AOQ_CUDA_ARCHS must be {LEAST_CAPABILITY} or later, got {', '.join(old)}.")
        return with_translatable(architectures), ""
    capabilities = local_capabilities()
    if not capabilities:
        return DEFAULT_ARCHITECTURES, ""
    if architectures := local_architectures(capabilities, known_capabilities(nvcc)):
        return with_translatable(architectures), ""
    found = f"sm_{max(capabilities)} is the latest GPU of this machine, and the kernels need sm_{LEAST_CAPABILITY}"
    return "", _unless_required(found, "name architectures in AOQ_CUDA_ARCHS")


def local_architectures(capabilities: Iterable[int], known: Iterable[int]) -> list[str]:
    """What to compile for GPUs of these capabilities, where the compiler knows some; GPUs that are too old get nothing.

    A GPU that the compiler does not know yet translates what is compiled for the latest before it.
    """
    known = set(known)
    chosen = set()
    for capability in capabilities:
        older = {number for number in known if number <= capability}
        number = max(older) if older else capability
        if number >= LEAST_CAPABILITY:
            chosen.add(number)
    return ["90a" if number == 90 else str(number) for number in sorted(chosen)]


def with_translatable(architectures: list[str]) -> str:
    """With one that later GPUs can translate: `90a` runs on 9.0 and nowhere else."""
    if all(name[-1].isalpha() for name in architectures):
        architectures = [*architectures, f"{min(map(_number, architectures))}-virtual"]
    return ";".join(architectures)


def local_capabilities() -> set[int]:
    """The compute capabilities of this machine's GPUs, as 90 for 9.0."""
    answer = _answer("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    return {int(major + minor) for major, minor in re.findall(r"^\s*(\d+)\.(\d)\s*$", answer, re.MULTILINE)}


def known_capabilities(nvcc: str) -> set[int]:
    """What a compiler can compile for; nothing where it does not say."""
    return {int(number) for number in re.findall(r"compute_(\d+)", _answer(nvcc, "--list-gpu-arch"))}


def _number(architecture: str) -> int:
    return int(architecture.rstrip("af"))


def _answer(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _unless_required(reason: str, cure: str) -> str:
    if os.environ.get("AOQ_REQUIRE_CUDA") == "1":
        raise SystemExit(f"aoq_ext: AOQ_REQUIRE_CUDA=1, but {reason}; {cure}.")
    return reason
