"""Runs the CUDA kernels of csrc/cuda on the CPU; README.md beside this file says how, and what that proves.

>>> simt.load("forward").run("pair_keys", seed=3, image=image, text=text)
{"keys": array(...)}
"""

from __future__ import annotations

import functools
import importlib.util
import os
from types import ModuleType

from .build import MODULE, build

SCHEDULES = int(os.environ.get("AOQ_SIMT_SCHEDULES", "20"))  # that a result must not depend on


@functools.cache
def load(binding: str) -> ModuleType:
    """The module of bind_<binding>.cpp, built if need be, in the flavour that AOQ_SIMT_FLAVOUR names.

    ``run(name, *, seed=0, resident_blocks=3, most_switches=..., cuts_off=False, **arguments)`` runs a binding: it
    copies arrays in, and returns a dict of the arrays that the kernel gives back. ``Error`` is raised where a kernel
    breaks CUDA's rules.
    ``last_report()`` is the number of switches of the last launch, and a hash of their order.
    """
    library = build(binding, os.environ.get("AOQ_SIMT_FLAVOUR", "plain"))
    spec = importlib.util.spec_from_file_location(f"simt.{binding}.{MODULE}", library)  # pybind11 keeps modules by name
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
