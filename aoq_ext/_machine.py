"""What this process may use of the machine. Needs nothing of the package: the build runs this file by itself."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
# A control group's limit, what is used of it, and which part of that is given back when it is needed: versions 2 and 1.
_MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that are free, on the machine and within the limits of the control groups this process is in."""
    system = _fields(root / "proc/meminfo").get("MemAvailable:")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = [physical // 2 if system is None else system << 10]
    for group in _control_groups(root, "memory"):
        for limit, used, reclaimable in _MEMORY:
            numbers = _numbers(group / limit), _numbers(group / used)
            if all(numbers):
                (most,), (now,) = numbers
                free.append(most - now + _fields(group / "memory.stat").get(reclaimable, 0))
    return max(0, min(free))


def available_cores(root: Path = _ROOT) -> int:
    """CPU cores this process may keep busy: those it may run on, or the share its control groups have of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups(root, "cpu"):
        quota = _numbers(group / "cpu.max") or _numbers(group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[1] > 0:
            cores = min(cores, -(-quota[0] // quota[1]))
    return max(1, cores)


def processor_name(root: Path = _ROOT) -> str:
    """The processor as it calls itself; its architecture where it does not say."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups this process is in, and of those around them; a container may not see them all."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        names = [name for name in path.split("/") if name not in ("", "..")]
        yield from (mount.joinpath(*names[:depth]) for depth in range(len(names), -1, -1))


def _numbers(*paths: Path) -> list[int]:
    """The numbers in these files; none at all where one has none, but -1 or "max"."""
    words = [word for path in paths for word in _text(path).split() or ["missing"]]
    return [int(word) for word in words] if all(word.isdecimal() for word in words) else []


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    lines = [line.split() for line in _text(path).splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
