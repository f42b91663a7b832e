"""PEP 517 backend: setuptools, plus the torch of the environment that is being installed into.

Under build isolation pip hides the environment's packages, and asking the index for torch would build against another
one, after a download of gigabytes. The library needs only torch's headers and two stub libraries, so the backend finds
the torch already there and asks for one only when there is none.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (a PEP 517 backend re-exports the hooks it does not change)

sys.path.insert(0, str(Path(__file__).parent))
from find_torch import MINIMUM_TORCH, find_torch


def _with_torch(requirements: list[str]) -> list[str]:
    if find_torch() is None:
        requirements = [*requirements, f"torch>={MINIMUM_TORCH}"]
    return requirements


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return _with_torch(build_meta.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return _with_torch(build_meta.get_requires_for_build_editable(config_settings))
