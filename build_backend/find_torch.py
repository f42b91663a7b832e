"""Find a torch package without importing it: its headers and version are all the build needs."""

from __future__ import annotations

import re
import site
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

MINIMUM_TORCH = "2.11"


class TorchPackage(NamedTuple):
    folder: Path  # holds include/ and lib/
    version: str


def find_torch() -> TorchPackage | None:
    """The first torch on the path, then in the environment that build isolation hides; None if there is none."""
    # Isolation changes sys.path but not sys.prefix, so sysconfig still names the environment's site-packages.
    hidden = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if _sees_system_packages():
        base = {"base": sys.base_prefix, "platbase": sys.base_prefix}
        hidden += [sysconfig.get_path("purelib", vars=base), "/usr/lib/python3/dist-packages"]
        hidden.append(site.getusersitepackages())
    for entry in [*sys.path, *hidden]:
        folder = Path(entry or ".", "torch")
        if (folder / "include").is_dir() and (version := _version_of(folder)):
            return TorchPackage(folder.resolve(), version)
    return None


def is_too_old(version: str) -> bool:
    """Whether a version is below the minimum the library loads under."""

    def release(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", text)[:2])

    return release(version) < release(MINIMUM_TORCH)


def _sees_system_packages() -> bool:
    """Whether the environment is no virtual one, or one made with --system-site-packages."""
    if sys.prefix == sys.base_prefix:
        return True
    try:
        settings = Path(sys.prefix, "pyvenv.cfg").read_text().lower()
    except OSError:
        return False
    return re.search(r"include-system-site-packages\s*=\s*true", settings) is not None


def _version_of(folder: Path) -> str | None:
    try:
        source = (folder / "version.py").read_text()
    except OSError:
        return None
    found = re.search(r"^__version__ = ['\"]([^'\"]+)", source, re.MULTILINE)
    return found[1] if found else None
