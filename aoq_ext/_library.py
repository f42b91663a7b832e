"""Loads the compiled library, or says what to do where it cannot be loaded."""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path

import torch

LIBRARY = Path(__file__).with_name("libaoq.so")
MINIMUM_TORCH = (2, 11)


def _load_library() -> dict[str, str]:
    release = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if release < MINIMUM_TORCH:
        raise ImportError(
            f"aoq_ext needs torch 2.11 or later, found {torch.__version__}; run `pip install --upgrade 'torch>=2.11'`"
        )
    if not LIBRARY.exists():
        raise ImportError(
            f"the compiled library {LIBRARY.name} is not beside aoq_ext ({LIBRARY.parent}); "
            "install the package with `pip install .` from its source folder, and do not import it from there"
        )
    if not _is_registered("aoq::quintuplet_forward"):  # loading a second library of this namespace would crash
        try:
            torch.ops.load_library(str(LIBRARY))
        except OSError as error:
            raise ImportError(
                f"{LIBRARY} does not load under torch {torch.__version__}: {error}; reinstall aoq_ext from its source "
                "folder with `pip install --force-reinstall --no-deps .`"
            ) from error
    describe = ctypes.CDLL(str(LIBRARY)).aoq_build_info
    describe.restype = ctypes.c_char_p
    facts: dict[str, str] = json.loads(describe())
    return facts


def _is_registered(name: str) -> bool:
    return bool(torch._C._dispatch_has_kernel(name)) if _has_schema(name) else False


def _has_schema(name: str) -> bool:
    return bool(torch._C._jit_get_schemas_for_operator(name))


BUILD_FACTS = _load_library()
