"""What is installed and which kernels run."""

from __future__ import annotations

import torch

from .._version import __version__
from .library import BUILD_FACTS, LIBRARY


def build_info() -> dict[str, str]:
    """Describe this build: versions, CUDA compiled or not and why, architectures, kernels in use for each device.

    Returns: a dict of strings, in the order in which ``aoq doctor`` prints them.
    """
    facts = BUILD_FACTS
    architectures = facts["cuda_architectures"]
    return {
        "version": __version__,
        "torch": torch.__version__,
        "built for torch": facts["built_for_torch"],
        "built against torch": facts["built_against_torch"],
        "library": str(LIBRARY),
        "compiler": facts["compiler"],
        "CUDA compiled": f"yes, nvcc {facts['cuda_compiler']}, runtime {facts['cuda_runtime']}"
        if architectures
        else "no",
        "CUDA missing because": "" if architectures else facts["cuda_missing_because"],
        "CUDA architectures": architectures,
        "CPU kernels": "fused",
        "CUDA kernels": "fused losses, selection and mining"
        if architectures
        else "none: CUDA tensors take the PyTorch reference",
    }
