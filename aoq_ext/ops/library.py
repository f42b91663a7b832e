"""Loads the compiled library, or says what to do where it cannot be loaded."""

from __future__ import annotations

import ctypes
import json
import re
from pathlib import Path

import torch

LIBRARY = Path(__file__).parents[1] / "libaoq.so"
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
    if hasattr(torch.ops.aoq, "quintuplet_forward") and str(LIBRARY) not in torch.ops.loaded_libraries:
        # Registering the same operators a second time would end the process.
        raise ImportError(
            f"another library with the operators of aoq_ext is loaded already, so {LIBRARY} cannot be; "
            "import one installation of aoq_ext per process"
        )
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        raise ImportError(
            f"{LIBRARY} does not load under torch {torch.__version__}: {error}; reinstall aoq_ext from its source "
            "folder with `pip install --force-reinstall --no-deps .`"
        ) from error
    library = ctypes.CDLL(str(LIBRARY))
    library.aoq_build_info.restype = ctypes.c_char_p
    facts: dict[str, str] = json.loads(library.aoq_build_info())
    runtime = getattr(library, "aoq_cuda_runtime_version", None)  # only where CUDA was compiled
    facts["cuda_runtime"] = "{}.{}".format(*divmod(runtime() // 10, 100)) if runtime else ""
    return facts


BUILD_FACTS = _load_library()
