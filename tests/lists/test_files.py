"""Mining between files: the lists of `mine_hard_negatives`, however often it is stopped and whatever breaks."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("numpy")

import numpy as np

import aoq_ext
from aoq_ext.lists import MinedLists, mine_to_files
from aoq_ext.lists import files as mining_files
from aoq_ext.mining.progress import MiningProgress
from aoq_ext.mining.shards import reverse_buffer

N, M, D, K, K_REVERSE = 47, 61, 9, 6, 4
SHARD_ROWS = 11
KILLED_SHARD_ROWS = 20


class Stop(Exception):
    """Ends a job from inside."""


def problem() -> dict[str, Any]:
    """Everything `mine_hard_negatives` takes, with ties and lists that stay short."""
    generator = torch.Generator().manual_seed(2)
    anchors = torch.randint(-2, 3, (N, D), generator=generator).float()
    candidates = torch.randint(-2, 3, (M, D), generator=generator).float()
    labels = [[i % 7, 100 + i % 5] for i in range(N)], [[j % 11] for j in range(M)]
    labels[0][3], labels[0][5] = list(range(11)), list(range(10))
    return {
        "anchors": anchors,
        "candidates": candidates,
        "k": K,
        "anchor_ids": torch.arange(N) // 2,
        "candidate_ids": torch.arange(M) // 3,
        "direction": "both",
        "k_reverse": K_REVERSE,
        "anchor_labels": labels[0],
        "candidate_labels": labels[1],
        "skip": 1,
        "margin": -3.0,
        "max_score": 12.0,
    }


def mine(folder: Path, **changes: Any) -> MinedLists:
    return mine_to_files(**{**problem(), "out": folder, "shard_rows": SHARD_ROWS, **changes})


def content(folder: Path) -> dict[str, bytes]:
    """All that is in a folder of lists, but for the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def stopped(folder: Path, shards: int = 2, **changes: Any) -> Path:
    """A folder whose job ended after so many shards."""

    def on_progress(now: MiningProgress) -> None:
        if now.shards == shards:
            raise Stop

    with pytest.raises(Stop):
        mine(folder, on_progress=on_progress, **changes)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    mine(folder)
    return content(folder)


@pytest.mark.parametrize("shard_rows", [1, SHARD_ROWS, N, 1000, None])
@pytest.mark.parametrize("direction", ["anchors", "both"])
def test_the_lists_are_those_of_mining_in_memory(tmp_path: Path, direction: Any, shard_rows: int | None) -> None:
    given = {**problem(), "direction": direction, "k_reverse": K_REVERSE if direction == "both" else None}
    expected = aoq_ext.mine_hard_negatives(**given)
    mined = mine_to_files(**given, out=tmp_path, shard_rows=shard_rows)
    assert mined.indices.dtype == np.int32
    assert mined.scores.dtype == np.float32
    assert np.array_equal(mined.indices, expected.indices)
    assert np.array_equal(mined.scores, expected.scores)
    assert (mined.indices == -1).any()
    if direction == "anchors":
        assert mined.reverse_indices is None
        assert sorted(content(tmp_path)) == ["indices.npy", "manifest.json", "scores.npy"]
    else:
        assert np.array_equal(mined.reverse_indices, expected.reverse.indices)
        assert np.array_equal(mined.reverse_scores, expected.reverse.scores)
    assert np.array_equal(np.load(tmp_path / "indices.npy"), mined.indices)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    given = {name: problem()[name].to(dtype) for name in ("anchors", "candidates")}
    expected = aoq_ext.mine_hard_negatives(**given, k=5)
    assert np.array_equal(mine_to_files(**given, out=tmp_path, k=5).scores, expected.scores)


def test_files_of_any_kind_are_one_problem(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """The content decides, not the format: what a tensor began, a file continues."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    given = problem()
    np.save(tmp_path / "a.npy", np.asfortranarray(given["anchors"].numpy()))
    save_file({"x": given["candidates"]}, tmp_path / "c.safetensors")
    folder = stopped(tmp_path / "out")
    mine(folder, anchors=tmp_path / "a.npy", candidates=str(tmp_path / "c.safetensors"))
    lists = content(folder)
    assert {name: lists[name] for name in lists if name.endswith(".npy")} == {
        name: whole[name] for name in whole if name.endswith(".npy")
    }


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_nothing_to_list(tmp_path: Path, rows: int, columns: int) -> None:
    mined = mine_to_files(torch.ones(rows, 3), torch.ones(columns, 3), tmp_path, 4, direction="both", k_reverse=2)
    assert mined.indices.shape == (rows, 4)
    assert mined.reverse_indices is not None and mined.reverse_indices.shape == (columns, 2)
    assert MinedLists.load(tmp_path, checksums=True).scores.shape == (rows, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_reverse_lists_that_exceed_the_limit_are_kept_in_a_file(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def in_a_file(task: Any, folder: Path, memory_limit: int) -> torch.Tensor | None:
        made.append(reverse_buffer(task, folder, 1))
        assert not list(folder.glob("*.tmp"))
        return made[-1]

    monkeypatch.setattr(mining_files, "reverse_buffer", in_a_file)
    mine(tmp_path)
    assert content(tmp_path) == whole
    assert made[0].shape == (M, K_REVERSE + 1)
    mapped = f"{made[0].data_ptr():x}-"
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert any(line.startswith(mapped) and ".reverse." in line for line in maps)


def test_progress(tmp_path: Path) -> None:
    seen: list[MiningProgress] = []
    mine(stopped(tmp_path, shards=2), on_progress=seen.append)
    assert seen[0] == MiningProgress(2 * SHARD_ROWS * M, N * M, 2, 5)
    assert seen[-1] == MiningProgress(N * M, N * M, 5, 5)
    assert all(before.scores <= after.scores for before, after in itertools.pairwise(seen))


def test_a_finished_folder_is_left_as_it_is(tmp_path: Path, whole: dict[str, bytes]) -> None:
    mine(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    mine(tmp_path, shard_rows=3, memory_limit=10**9)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != ".lock"} == {
        path: at for path, at in before.items() if path.name != ".lock"
    }
    assert content(tmp_path) == whole


class Killer:
    """Kills this process at its n-th touch of the file system, as Python's audit hooks see them, or of the disk."""

    EVENTS = ("open", "os.rename", "os.remove", "os.chmod", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate")

    def __init__(self, folder: str, last: int) -> None:
        self.folder, self.left = folder, last
        self.fsync = os.fsync
        os.fsync = self.synced  # type: ignore[assignment]
        sys.addaudithook(self.event)

    def event(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name in self.EVENTS and arguments and self.folder in str(arguments[0]):
            self.count()

    def synced(self, descriptor: int) -> None:
        self.fsync(descriptor)
        self.count()

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], object], delay: float | None = None) -> int:
    """Run ``work`` in a copy of this process, killed after ``delay`` seconds; returns its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def mine_killed(folder: Path, point: int) -> None:
    Killer(str(folder), point)
    mine(folder, shard_rows=KILLED_SHARD_ROWS)


def serve_restarts(root: str, seed: int) -> None:
    """Kill and restart jobs in all the ways there are; prints what came of it. Run in a process without threads."""
    torch.set_num_threads(1)
    mine_on = partial(mine, shard_rows=KILLED_SHARD_ROWS)
    begun = time.monotonic()
    assert forked(partial(mine_on, Path(root, "whole"))) == 0
    pace = time.monotonic() - begun
    expected = content(Path(root, "whole"))
    kills, wrong = 0, []
    for point in itertools.count(1):  # each point once, then left alone
        folder = Path(root, f"point-{point}")
        status = forked(partial(mine_killed, folder, point))
        again = 0 if status == 0 else forked(partial(mine_on, folder))
        if status not in (0, signal.SIGKILL) or again != 0 or content(folder) != expected:
            wrong.append(f"point {point}: {status}, then {again}")
        if status == 0:
            break
        kills += 1
    chooser = random.Random(seed)
    for job in range(6):  # again and again at random, by count and by time, until it gets through
        folder, status = Path(root, f"chain-{job}"), signal.SIGKILL
        while status == signal.SIGKILL:
            if chooser.random() < 0.4:
                status = forked(partial(mine_on, folder), chooser.random() * 1.3 * pace)
            else:
                status = forked(partial(mine_killed, folder, chooser.randrange(5, 40)))
            kills += status == signal.SIGKILL
        if status != 0 or content(folder) != expected:
            wrong.append(f"chain {job}: {status}")
    print(json.dumps({"kills": kills, "wrong": wrong}))


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and counts file operations by audit events")
def test_killed_anywhere_and_started_again_the_files_are_the_same(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    code = "import sys, tests.lists.test_files as t; t.serve_restarts(sys.argv[1], 5)"
    memory = Path("/dev/shm")  # where nothing waits for a disk
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        command = [sys.executable, "-c", code, folder]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["wrong"] == [], result.stderr
    assert found["kills"] >= 100


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[:-3])
    else:
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])


@pytest.mark.parametrize("how", ["missing", "cut", "altered"])
@pytest.mark.parametrize("name", ["000000-anchors.npy", "000001-candidates.npy", "listed-0.json"])
def test_a_damaged_shard_is_mined_again(tmp_path: Path, whole: dict[str, bytes], name: str, how: str) -> None:
    folder = stopped(tmp_path, shards=3)
    damage(folder / "shards" / name, how)
    seen: list[MiningProgress] = []
    mine(folder, on_progress=seen.append)
    assert content(folder) == whole
    if name != "listed-0.json":
        assert seen[0].shards == 2


@pytest.mark.parametrize("how", ["missing", "cut", "altered"])
@pytest.mark.parametrize("name", ["indices.npy", "reverse_scores.npy"])
def test_a_damaged_list_is_noticed_and_mined_again(
    tmp_path: Path, whole: dict[str, bytes], name: str, how: str
) -> None:
    mine(tmp_path)
    damage(tmp_path / name, how)
    with pytest.raises((ValueError, FileNotFoundError), match=name):
        MinedLists.load(tmp_path, checksums=True)
    mine(tmp_path)
    assert content(tmp_path) == whole


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "anchors": ({"anchors": problem()["anchors"] + 1}, "anchors: .* with float32 47 × 9 with sha256"),
    "rows": ({"candidates": torch.ones(60, D), "candidate_ids": torch.arange(60), "candidate_labels": [[]] * 60},
             r"candidates: .* float32 61 × 9 .*, got float32 60 × 9"),
    "dtype": ({"anchors": problem()["anchors"].double(), "candidates": problem()["candidates"].double()}, "float64"),
    "ids": ({"candidate_ids": torch.arange(M) // 2}, "candidate_ids: .* with sha256"),
    "no ids": ({"anchor_ids": None, "candidate_ids": None, "margin": None}, "anchor_ids: .*, got none"),
    "labels": ({"anchor_labels": [[1]] * N}, "anchor_labels: "),
    "k": ({"k": 5}, "k: .* with 6, got 5"),
    "k_reverse": ({"k_reverse": 3}, "k_reverse: .* with 4, got 3"),
    "direction": ({"direction": "anchors", "k_reverse": None}, "k_reverse: .* with 4, got none"),
    "skip": ({"skip": 0}, "skip: .* with 1, got 0"),
    "margin": ({"margin": -2.5}, r"margin: .* with -3.0, got -2.5"),
    "relative_margin": ({"relative_margin": 0.5}, "relative_margin: .* with none, got 0.5"),
    "max_score": ({"max_score": None}, "max_score: .* with 12.0, got none"),
    "texts": ({"texts": "anchors"}, "texts: .* with candidates, got anchors"),
}  # fmt: skip


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("case", list(CHANGES))
def test_another_problem_is_refused(tmp_path: Path, case: str, finished: bool) -> None:
    change, message = CHANGES[case]
    if finished:
        mine(tmp_path)
    else:
        stopped(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=f"{message}.*mine into another folder"):
        mine(tmp_path, **change)
    assert content(tmp_path) == before


def test_a_changed_file_is_refused_and_an_unchanged_one_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npy"
    np.save(path, problem()["anchors"].numpy())
    folder = stopped(tmp_path / "out", anchors=path)
    hashed: list[Any] = []
    original = mining_files.fingerprint

    def counting(source: Any, file: Path | None, known: dict[str, Any]) -> str:
        before = len(known)
        result = original(source, file, known)
        hashed.append(len(known) > before)
        return result

    monkeypatch.setattr(mining_files, "fingerprint", counting)
    stopped(folder, shards=3, anchors=path)
    assert hashed == [False, False]
    np.save(path, -problem()["anchors"].numpy())
    with pytest.raises(ValueError, match="anchors: "):
        mine(folder, anchors=path)


def test_lists_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 3, "texts": {}}')
    with pytest.raises(ValueError, match=r"out: .*manifest.json: expected an object as problem, got None; mine again"):
        mine(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"out: .*manifest.json is not valid JSON"):
        mine(tmp_path)


def test_shards_without_their_manifest_do_not_count(tmp_path: Path, whole: dict[str, bytes]) -> None:
    folder = stopped(tmp_path, k=K + 1, shard_rows=7)
    (folder / "manifest.json").unlink()
    mine(folder)
    assert content(folder) == whole


def test_a_folder_is_mined_into_by_one_process(tmp_path: Path) -> None:
    def on_progress(now: MiningProgress) -> None:
        with pytest.raises(RuntimeError, match="out: another process is mining into"):
            mine(tmp_path)
        raise Stop

    with pytest.raises(Stop):
        mine(tmp_path, on_progress=on_progress)
    mine(tmp_path)


@pytest.mark.parametrize("full_at", range(1, 22))
def test_a_full_disk_is_named_and_leaves_what_was_there(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, full_at: int
) -> None:
    calls = 0
    original = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += stat.S_ISREG(os.fstat(descriptor).st_mode)
        if calls == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left on device") as caught:
            mine(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in caught.value.filename
    assert not list(tmp_path.rglob("*.tmp"))
    mine(tmp_path)
    assert content(tmp_path) == whole


def limited(folder: str) -> None:
    """Mine where no file may grow beyond some kilobytes, then where there is room."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for largest in (700, 2000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        try:
            mine(Path(folder))
        except OSError as error:
            print(error.errno, error.filename)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    mine(Path(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_file_that_may_not_grow(tmp_path: Path, whole: dict[str, bytes]) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    code = "import sys, tests.lists.test_files as t; t.limited(sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    errors = result.stdout.splitlines()
    assert len({line.split()[1] for line in errors}) == 2, errors
    assert all(line.startswith(f"{errno.EFBIG} {tmp_path}") for line in errors), errors
    assert content(tmp_path) == whole


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"direction": "back"}, ValueError, "direction must be 'anchors' or 'both', got 'back'"),
        ({"direction": "anchors"}, ValueError, "k_reverse must come with direction='both', got 4"),
        ({"candidates": torch.ones(3, D, dtype=torch.float64)}, TypeError, "candidates must have the dtype of anchors"),
        ({"anchor_ids": torch.ones(N)}, TypeError, "anchor_ids must be an integer tensor"),
        ({"anchor_ids": [1] * N}, TypeError, "anchor_ids must be a tensor or a numpy array of integers, got list"),
        (
            {"anchor_ids": torch.ones(3).int()},
            ValueError,
            r"anchor_ids must have one integer per row of anchors, 47, got shape \(3,\)",
        ),
        ({"device": "foo"}, ValueError, "device must be cpu, or cuda where there is a GPU, got 'foo'"),
        ({"k": 0}, ValueError, "k must be"),
        ({"shard_rows": 0}, ValueError, "shard_rows must be an int of at least 1, got 0"),
        ({"memory_limit": 10}, ValueError, "memory_limit must be at least"),
        ({"skip": -1}, ValueError, "skip must be at least 0"),
        ({"anchors": torch.full((N, D), torch.nan)}, ValueError, "anchors must be finite"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mine(tmp_path, **change)
    assert content(tmp_path) == {}
    with pytest.raises(error, match=message):
        mine(tmp_path / "new", **change)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["indices.npy", "reverse_scores.npy", "shards/of_others.npy", "config.yaml"])
def test_folders_of_others_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(
        (FileExistsError, ValueError), match=r"out must not (hold files of others|be the folder of a tr)"
    ):
        mine(tmp_path)
    assert content(tmp_path) == {name: b"precious"}


def test_out_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out must be a folder, got ''"):
        mine_to_files(**problem(), out="")
    (tmp_path / "file").touch()
    for out in ("file", "file/below"):
        with pytest.raises(NotADirectoryError, match=r"out must be a folder, got .*, where .*file is a file"):
            mine(tmp_path / out)


def test_a_file_of_embeddings_is_not_replaced(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "out")
    np.save(folder / "scores.npy", problem()["anchors"].numpy())
    with pytest.raises(FileExistsError, match=r"out must not hold what is mined, got .*out with anchors, .*scores.npy"):
        mine(folder, anchors=folder / "scores.npy")


def test_loading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder must hold mined lists .*, got .* without manifest.json"):
        MinedLists.load(tmp_path)
    with pytest.raises(ValueError, match="folder must hold complete lists"):
        MinedLists.load(stopped(tmp_path))
    mine(tmp_path)
    np.save(tmp_path / "scores.npy", np.zeros((N, K + 1), np.float32))
    with pytest.raises(ValueError, match=r"folder must hold scores.npy of <f4 \[47, 6\], got <f4 \[47, 7\]"):
        MinedLists.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"folder: .*manifest.json is not valid JSON"):
        MinedLists.load(tmp_path)


MEMORY = """
import sys, torch
torch.set_num_threads(1)
from aoq_ext.lists.files import mine_to_files

def memory():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["VmHWM"].split()[0]) * 1024

mine_to_files(torch.randn(300, 256), torch.randn(300, 256), sys.argv[1] + "/warm", 20, direction="both")
before = memory()
anchors, candidates = (f"{sys.argv[1]}/{name}.npy" for name in ("anchors", "candidates"))
mine_to_files(anchors, candidates, sys.argv[1] + "/out", 20, direction="both", memory_limit=int(sys.argv[2]))
print(memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
def test_files_larger_than_the_limit_stay_below_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name, rows in (("anchors", 300), ("candidates", 500_000)):  # 512 MB
        array = np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.float32, (rows, 256))
        for start in range(0, rows, 50_000):
            part = array[start : start + 50_000]
            part[:] = generator.standard_normal(part.shape, np.float32)
        array.flush()
    limit = 250_000_000
    command = [sys.executable, "-c", MEMORY, str(tmp_path), str(limit)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < limit
