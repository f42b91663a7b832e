"""Drives CMake, which builds one shared library without Python inside; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))
from find_cuda import cuda_architectures, find_nvcc
from find_torch import MINIMUM_TORCH, find_torch, is_too_old

GIBIBYTES_PER_JOB = 2.0  # what one compiler process takes at most


class CMakeBuild(build_ext):
    """Build libaoq.so into the package folder."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"  # no Python ABI tag: the library does not know Python

    def build_extension(self, ext: Extension) -> None:
        torch = find_torch()
        if torch is None:
            raise SystemExit(f"aoq_ext: no torch found; run `pip install 'torch>={MINIMUM_TORCH}'` first.")
        if is_too_old(torch.version):
            raise SystemExit(
                f"aoq_ext: torch {torch.version} is too old; run `pip install --upgrade 'torch>={MINIMUM_TORCH}'`."
            )
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        output.mkdir(parents=True, exist_ok=True)
        architectures, reason = cuda_architectures()
        build = ROOT / "build" / "cmake"
        cmake = require("cmake", "CMake 3.24 or later (`pip install cmake`)")
        found = subprocess.run([cmake, "--version"], capture_output=True, text=True, check=True).stdout
        if tuple(map(int, re.findall(r"\d+", found)[:2])) < (3, 24):
            raise SystemExit(f"aoq_ext: {found.splitlines()[0]} is too old; install CMake 3.24 (`pip install cmake`).")
        configure = [
            cmake, "-S", str(ROOT), "-B", str(build),
            "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={require('ninja', 'ninja (`pip install ninja`)')}",
            "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DAOQ_TORCH_DIR={torch.folder}", f"-DAOQ_TORCH_VERSION={torch.version}",
            f"-DAOQ_CUDA_ARCHS={architectures}", f"-DAOQ_CUDA_REASON={reason}",
            f"-DCMAKE_CXX_COMPILER={find_compiler()}",
        ]  # fmt: skip
        if architectures:
            configure.append(f"-DCMAKE_CUDA_COMPILER={find_nvcc()}")
        print(f"aoq_ext: torch {torch.version}; CUDA: {architectures or 'not compiled, ' + reason}", flush=True)
        run(configure)
        run([cmake, "--build", str(build), "--parallel", str(parallel_jobs())])


class PlatformWheel(bdist_wheel):
    """py3-none-linux_x86_64: one wheel for every Python, because the library links none."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


def run(command: list[str]) -> None:
    """Run a build step; its own output says what failed."""
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"aoq_ext: `{' '.join(command[:2])} …` failed (exit {error.returncode}); see above.") from None


def require(program: str, cure: str) -> str:
    """The path of a program, or one sentence that says what to install."""
    beside_python = str(Path(sys.executable).parent)  # a virtual environment need not be activated
    path = shutil.which(program, path=os.pathsep.join([beside_python, os.environ.get("PATH", os.defpath)]))
    if path is None:
        raise SystemExit(f"aoq_ext: {program} was not found; install {cure}.")
    return path


def find_compiler() -> str:
    """The C++ compiler: $CXX (a name or a path), else the usual names."""
    if chosen := os.environ.get("CXX"):
        if path := shutil.which(chosen):
            return path
        raise SystemExit(f"aoq_ext: CXX must name a C++ compiler that can be run, got {chosen!r}.")
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return path
    raise SystemExit(
        "aoq_ext: no C++ compiler was found; install g++ 11 or later (Debian: `apt install g++`) or set CXX."
    )


def parallel_jobs() -> int:
    """Compile jobs: $MAX_JOBS, else as many as cores and memory allow."""
    if given := os.environ.get("MAX_JOBS"):
        if not given.isdecimal() or int(given) == 0:
            raise SystemExit(f"aoq_ext: MAX_JOBS must be a positive number, got {given!r}.")
        return int(given)
    machine = runpy.run_path(str(ROOT / "aoq_ext/_machine.py"))  # the package needs torch
    memory, cores = machine["available_memory"]() / 2**30, int(machine["available_cores"]())
    return max(1, min(cores, int(memory / GIBIBYTES_PER_JOB)))


setup(
    ext_modules=[Extension("aoq_ext.libaoq", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
    distclass=BinaryDistribution,
)
