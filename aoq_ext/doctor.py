"""`aoq doctor`: what is installed, what was compiled, which kernels run, what is wrong and the cure."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch

from aoq_command import WAIT_VARIABLES

from . import build_info, functional, reference
from .commands.parsing import TRAIN_MODULES
from .ops import calls


class Check(NamedTuple):
    """One thing that was checked."""

    name: str
    state: str  # "ok", "note" (works, could be better) or "wrong"
    detail: str
    cure: str = ""


def _check_torch() -> Check:
    return Check("torch", "ok", f"{torch.__version__} on Python {platform.python_version()}")


def _check_library() -> Check:
    info = build_info()
    return Check("compiled library", "ok", f"{info['library']} (against torch {info['built against torch']})")


def _check_kernels() -> Check:
    return _compare_with_reference("CPU kernels", torch.device("cpu"))


def _compare_with_reference(name: str, device: torch.device) -> Check:
    """Run the loss, forward and backward, against the reference, in both precisions."""
    worst = 0.0
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-3)):
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(6, 300, 70, dtype=torch.float64, device="cpu", generator=generator).to(device, dtype)
        values = torch.nn.functional.normalize(values, dim=-1)
        results = []
        for loss in (functional.adaptive_quintuplet_loss, reference.adaptive_quintuplet_loss):
            operands = values.clone().requires_grad_()
            value = loss(*operands.unbind())
            (gradient,) = torch.autograd.grad(value, operands)
            results.append(torch.cat([value.detach().reshape(1), gradient.flatten()]))
        difference = ((results[0] - results[1]).abs().max() / results[1].abs().max()).item()
        if not difference <= tolerance:  # so that NaN fails
            cure = "please report it with the output of `aoq doctor`"
            return Check(name, "wrong", f"differ from the reference by {difference:.2g} in {dtype}", cure)
        worst = max(worst, difference)
    return Check(name, "ok", f"agree with the reference (largest relative difference {worst:.1g})")


def _check_waiting() -> Check:
    chosen = [f"{name}={os.environ[name]}" for name in WAIT_VARIABLES if name in os.environ]
    if chosen:
        return Check("waiting threads", "ok", f"{', '.join(chosen)}, as was set before torch was loaded")
    cure = "GOMP_SPINCOUNT=1000 in the environment, before torch is imported; `aoq` sets it"
    return Check("waiting threads", "note", "spin, which is slow on a machine that other work shares", cure)


def _check_cuda() -> Check:
    info = build_info()
    architectures, reason = info["CUDA architectures"], info["CUDA missing because"]
    compiled = f"yes, for {architectures}" if architectures else f"no, because {reason}"
    if torch.cuda.is_available():
        capability = "{}{}".format(*torch.cuda.get_device_capability())
        detail = f"{torch.cuda.get_device_name()} (sm_{capability}); CUDA compiled: {compiled}"
        device = torch.device("cuda", torch.cuda.current_device())
        if not calls.has_kernel(torch.empty(0, dtype=torch.float32, device=device)):
            again = f"AOQ_CUDA_ARCHS={capability} pip install --force-reinstall --no-deps . (with nvcc at hand)"
            cure = again if int(capability) >= 80 else "none: the kernels need sm_80 or later"
            return Check("CUDA", "note", f"{detail}; the losses run in plain PyTorch on this GPU", cure)
        found = _compare_with_reference("CUDA", device)
        return found._replace(detail=f"{detail}; kernels {found.detail}")
    if _has_gpu():
        detail = f"there is an NVIDIA GPU, but torch {torch.__version__} cannot use it"
        return Check("CUDA", "wrong", detail, "install a CUDA build of torch that fits the driver (nvidia-smi)")
    return Check("CUDA", "ok", f"no GPU here; CUDA compiled: {compiled}")


def _has_gpu() -> bool:
    if not shutil.which("nvidia-smi"):
        return False
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30, check=False).returncode == 0


def _check_training() -> Check:
    missing = [name for name in sorted(TRAIN_MODULES) if importlib.util.find_spec(name) is None]
    if missing:
        return Check("training", "note", f"not installed: {', '.join(missing)}", 'pip install "aoq_ext[train]"')
    fabric = importlib.metadata.version("lightning-fabric")
    return Check("training", "ok", f"everything `aoq train` needs is here (lightning-fabric {fabric})")


def _check_data() -> Check:
    if importlib.util.find_spec("numpy") is None:
        return Check("bundled data", "note", "needs numpy", 'pip install "aoq_ext[train]"')
    from .data import load_icons

    try:
        data = load_icons("train")
    except (OSError, ValueError) as error:
        return Check("bundled data", "wrong", str(error), "pip install --force-reinstall --no-deps .")
    return Check("bundled data", "ok", f"{data.name}: {len(data.images)} images, {len(data.captions)} captions")


_CHECKS: tuple[Callable[[], Check], ...] = (
    _check_torch,
    _check_library,
    _check_kernels,
    _check_waiting,
    _check_cuda,
    _check_training,
    _check_data,
)


def examine() -> list[Check]:
    """Run every check; one that fails by itself is a finding too, never a traceback."""
    findings = []
    for check in _CHECKS:
        try:
            findings.append(check())
        except Exception as error:
            name = check.__name__.removeprefix("_check_")
            findings.append(Check(name, "wrong", f"{type(error).__name__}: {error}", "see the message"))
    return findings


def main() -> int:
    """Print the findings; exit status 1 when something is wrong."""
    findings = examine()
    marks = {"ok": "✓", "note": "•", "wrong": "✗"}
    for finding in findings:
        print(f"{marks[finding.state]} {finding.name:<18} {finding.detail}")
        if finding.cure:
            print(f"  {'':<18} cure: {finding.cure}")
    wrong = sum(finding.state == "wrong" for finding in findings)
    print(f"\n{wrong} problem{'s' if wrong != 1 else ''} found." if wrong else "\nNothing is wrong.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
