"""Compiles the emulator and one file of bindings into build/simt/<flavour>/, again only where a file has changed.

Flavours: ``plain``; ``asan``, where AddressSanitizer sees every access beyond shared or global memory; ``tsan``, where
ThreadSanitizer sees two threads of a kernel use the same memory without a barrier or a fence between them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pybind11

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "simt"
RUNTIME = ("arithmetic", "binding", "collectives", "context", "memory", "module", "runtime")
MODULE = "aoq_simt"

COMMON = shlex.split("-g1 -std=c++20 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -DAOQ_SIMT")
SANITIZERS = {
    "plain": [],
    "asan": ["-fsanitize=address,alignment", "-fno-sanitize-recover=alignment", "-fno-omit-frame-pointer"],
    "tsan": ["-fsanitize=thread"],
}


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "g++"))


def flags(name: str, flavour: str) -> list[str]:
    """What one source is compiled with; ThreadSanitizer watches the kernels, and must not see the runtime."""
    chosen = [*COMMON, "-O2" if name in RUNTIME else "-O1", "-Icsrc", "-Itests"]
    if name == "module":
        return [*chosen, "-isystem", pybind11.get_include(), "-isystem", sysconfig.get_paths()["include"]]
    if flavour == "tsan" and name in RUNTIME:
        return [*chosen, "-DAOQ_SIMT_TSAN"]
    return [*chosen, *SANITIZERS[flavour]]


def dependencies(depfile: Path) -> list[Path]:
    return [ROOT / file for file in shlex.split(depfile.read_text().replace("\\\n", " ").split(": ", 1)[1])]


def fingerprint(command: list[str], depfile: Path) -> str:
    """A hash of the command and of every file that the object was made from: the same in any copy of the project."""
    digest = hashlib.sha256("\0".join([*command, sys.version, pybind11.__version__]).encode())
    for file in dependencies(depfile):
        digest.update(file.read_bytes() if file.exists() else b"missing")
    return digest.hexdigest()


def run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{result.stderr}")


def compile_source(name: str, flavour: str) -> Path:
    folder = BUILD / ("plain" if name == "module" else flavour)
    folder.mkdir(parents=True, exist_ok=True)
    target, depfile, stamp = (folder / f"{name}.{kind}" for kind in ("o", "d", "hash"))
    command = [*compiler(), *flags(name, flavour), "-c", f"tests/simt/{name}.cpp"]
    if stamp.exists() and stamp.read_text() == fingerprint(command, depfile):
        return target
    stamp.unlink(missing_ok=True)
    started = time.time()
    run([*command, "-MMD", "-MF", str(depfile), "-o", str(target)])
    if any(file.stat().st_mtime >= started for file in dependencies(depfile)):
        return compile_source(name, flavour)  # someone wrote a file meanwhile
    stamp.write_text(fingerprint(command, depfile))
    return target


@contextmanager
def alone() -> Iterator[None]:
    """Keeps other processes from building at the same time."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(binding: str, flavour: str = "plain") -> Path:
    """Builds bind_<binding>.cpp with the runtime; returns the Python module's file."""
    if flavour not in SANITIZERS:
        raise ValueError(f"AOQ_SIMT_FLAVOUR: expected one of {', '.join(SANITIZERS)}, got {flavour!r}")
    with alone():
        objects = [compile_source(name, flavour) for name in (*RUNTIME, f"bind_{binding}")]
        content = hashlib.sha256(b"".join(path.with_suffix(".hash").read_bytes() for path in objects)).hexdigest()
        library = BUILD / flavour / binding / f"{MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"
        stamp = library.with_suffix(".hash")
        if not (library.exists() and stamp.exists() and stamp.read_text() == content):
            library.parent.mkdir(exist_ok=True)
            fresh = library.with_suffix(".new")
            run([*compiler(), "-shared", *SANITIZERS[flavour], *map(str, objects), "-o", str(fresh)])
            fresh.replace(library)  # a process that has the old one loaded keeps it
            stamp.write_text(content)
    return library


def library_path(name: str) -> str:
    return subprocess.check_output([*compiler(), f"-print-file-name={name}"], text=True).strip()


def prefix(flavour: str) -> list[str]:
    """What to put before a command: older ThreadSanitizers need memory at the usual addresses."""
    fixed = ["setarch", "--addr-no-randomize"]
    usable = shutil.which(fixed[0]) and subprocess.run([*fixed, "true"], capture_output=True).returncode == 0
    return fixed if flavour == "tsan" and usable else []


def environment(flavour: str) -> dict[str, str]:
    """The environment of a Python that loads that flavour: a sanitizer must be there before everything else."""
    variables = dict(os.environ, AOQ_SIMT_FLAVOUR=flavour, OMP_NUM_THREADS="1")
    if flavour != "plain":
        variables["LD_PRELOAD"] = ":".join(library_path(name) for name in (f"lib{flavour}.so", "libstdc++.so"))
        variables["ASAN_OPTIONS"] = "detect_leaks=0:detect_stack_use_after_return=0"
        variables["TSAN_OPTIONS"] = "exitcode=66:halt_on_error=1:report_signal_unsafe=0"
    return variables
