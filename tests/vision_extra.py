"""timm, open_clip and torchvision for the tests of the examples, from `.venv/vision`, where `make test` puts them.

torchvision's operators are compiled for one build of torch. Beside another, as PyPI's, for CUDA, beside a torch for
CPUs alone, they do not load, and `import torchvision` ends with "operator torchvision::nms does not exist". timm and
open_clip import it always, the models of transformers wherever it is found. Hence a folder that these tests alone look
into: in `.venv` itself it would take transformers away from everything else. And hence a declaration of the operators
that the import asks for, made only where they did not load. No model of the examples calls one; a call is an error.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

FOLDER = Path(sys.prefix, "vision")


def add_libraries() -> None:
    """To be called before transformers is imported. Libraries of the environment itself come first."""
    sys.path += map(str, FOLDER.glob("lib*/python*/site-packages"))
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:  # the tests that need it show any other
        if "torchvision::nms does not exist" in str(error):
            _declare_operators()


def _declare_operators() -> None:
    global _declared  # collected, it would take the declarations with it
    _declared = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
