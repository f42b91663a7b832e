"""Memory and cores in containers, by file trees as the kernel shows them."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest
import torch

from aoq_ext._machine import available_cores, available_memory
from aoq_ext.mining import plan

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
UNLIMITED = "9223372036854771712\n"


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def tree(root: Path, cgroup: str, **folders: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/meminfo").write_text("MemTotal:  67108864 kB\nMemFree:  1024 kB\nMemAvailable:  16777216 kB\n")
    for folder, files in folders.items():
        path = root / "sys/fs/cgroup" / folder
        path.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (path / name).write_text(text)
    return root


def version_2(limit: str, used: int = 0, cache: int = 0, cpu: str = "max 100000") -> dict[str, str]:
    stat = f"anon 5\nfile {cache}\ninactive_file {cache}\nactive_file 7\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat, "cpu.max": f"{cpu}\n"}


def version_1(limit: str, used: int, cache: int) -> dict[str, str]:
    stat = f"cache {cache}\ninactive_file 3\ntotal_inactive_file {cache}\n"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": f"{used}\n", "memory.stat": stat}


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/\n", **{"": {}})
    assert available_memory(root) == 16 * GIB
    assert available_cores(root) == 8
    assert available_memory(tmp_path / "nothing") == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    assert available_cores(tmp_path / "nothing") == 8


def test_version_2_less_what_is_used_but_for_reclaimable_cache(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/\n", **{"": version_2(str(2 * GIB), GIB, GIB // 4, cpu="150000 100000")})
    assert available_memory(root) == GIB + GIB // 4
    assert available_cores(root) == 2  # one and a half


def test_the_narrowest_of_the_groups_around_counts(tmp_path: Path) -> None:
    groups = {
        "": version_2("max"),
        "a": version_2(str(3 * GIB), 2 * GIB, cpu="300000 100000"),
        "a/b": version_2(str(2 * GIB), GIB // 2),
        "a/b/c": version_2("max", GIB // 2, cpu="50000 10000"),
        "other": version_2("1", cpu="1 100000"),
    }
    root = tree(tmp_path, "0::/a/b/c\n", **groups)
    assert available_memory(root) == GIB
    assert available_cores(root) == 3


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/\n", **{"": version_2("100", 200, cpu="1000 100000")})
    assert available_memory(root) == 0
    assert available_cores(root) == 1


def test_version_1(tmp_path: Path) -> None:
    cgroup = "5:memory:/docker/x\n4:cpuacct,cpu:/docker/x\n1:name=systemd:/\n0::/\n"
    groups = {
        "memory": version_1(UNLIMITED, 5 * GIB, 0),
        "memory/docker/x": version_1(f"{2 * GIB}\n", GIB, GIB // 8),
        "cpu": {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"},
        "cpu/docker/x": {"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000\n"},
    }
    root = tree(tmp_path, cgroup, **groups)
    assert available_memory(root) == GIB + GIB // 8
    assert available_cores(root) == 4


def test_a_container_that_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    cgroup = "5:memory:/docker/x\n4:cpu:/docker/x\n0::/../y\n"
    groups = {
        "memory": version_1(f"{2 * GIB}\n", GIB, 0),
        "cpu": {"cpu.cfs_quota_us": "100000\n", "cpu.cfs_period_us": "100000\n"},
    }
    root = tree(tmp_path, cgroup, **groups)
    assert available_memory(root) == GIB
    assert available_cores(root) == 1


def test_mining_keeps_to_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "available_memory", lambda: 3 * GIB)
    assert plan._check_limit(None, torch.device("cpu")) == 3 * GIB // 2


@pytest.mark.parametrize("script", ["setup.py", "tools/kernels_report.py"])
def test_the_build_compiles_as_much_at_a_time_as_is_available(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    jobs = runpy.run_path(str(ROOT / script))["parallel_jobs"]
    for memory, cores, expected in ((5 * GIB, 64, 2), (64 * GIB, 3, 3), (GIB, 8, 1)):
        found = {"available_memory": lambda memory=memory: memory, "available_cores": lambda cores=cores: cores}
        monkeypatch.setattr(runpy, "run_path", lambda path, found=found: found)
        assert jobs() == expected
