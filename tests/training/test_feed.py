"""Images read ahead: the same bits for any number of processes, and what happens where reading fails."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning_fabric")

from aoq_ext.data import DataError
from aoq_ext.parallel import ALONE
from aoq_ext.training import ConfigError, DataConfig, TrainConfig, train
from aoq_ext.training.batches import PairBatches
from aoq_ext.training.checkpoint import load_checkpoint
from aoq_ext.training.config import check
from aoq_ext.training.feed import Feed
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.run import RunFiles
from aoq_ext.training.tokens import make_tokenizer
from tests.training.readers import BAD
from tests.training.test_processes import launch
from tests.training.test_resume import Stop, remining, same, stop_at
from tests.training.test_toy import toy_config

ROOT = Path(__file__).parents[2]


def config_of(run: Path, kind: str, workers: int | None, **changes: Any) -> TrainConfig:
    data = DataConfig(
        loader="tests.training.readers.load", root=str(run.parent), args={"kind": kind}, workers=workers, prefetch=1
    )
    return toy_config(run, data=data, **{"epochs": 2, **changes})


def shared_memory() -> set[str]:
    gc.collect()
    return set(os.listdir("/dev/shm"))


def comes_true(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Other processes on the machine may use shared memory, too, for a moment."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def state_of(run: str | Path) -> dict[str, Any]:
    state = load_checkpoint(RunFiles(run).last)
    del state["config"]
    return state


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("Drawing", {"accumulate": 2, "micro_batch": 3}), ("mapped", remining(remine_every=1))],
    ids=["accumulated", "mined"],
)
def test_any_number_of_processes_reads_the_same(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    """Of images, too, that are drawn when they are read."""
    before = shared_memory()
    runs = [train(config_of(tmp_path / str(workers), kind, workers, **changes)) for workers in (0, 1, 2)]
    states = [state_of(run) for run in runs]
    assert same(states[1], states[0])
    assert same(states[2], states[0])
    assert not active_children()
    assert comes_true(lambda: shared_memory() <= before)


def test_a_stopped_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    whole = train(config_of(tmp_path / "whole", "Drawing", 0))
    for stop, workers in ((3, 2), (7, 1)):
        with pytest.raises(Stop):
            train(config_of(tmp_path / "parts", "Drawing", workers), resume=True, on_step=stop_at(stop))
        assert not active_children()
    parts = train(config_of(tmp_path / "parts", "Drawing", 2), resume=True)
    assert same(state_of(parts), state_of(whole))


def step_that_needs(image: int, config: TrainConfig) -> int:
    """From 0."""
    data = load_split(config.data, "train")
    pairs = EncodedPairs(data, make_tokenizer(config.data, data.captions))
    for batch in PairBatches(pairs.captions, config.batch_size, config.seed).epoch(1):
        if image in batch.image:
            return batch.step
    raise AssertionError


@pytest.mark.parametrize(
    ("kind", "workers", "message"),
    [
        ("Failing", 0, rf"image {BAD} \('thing8'\) of toy/train, for step {{step}}: ValueError: bad sector"),
        ("Failing", 2, rf"image {BAD} \('thing8'\) of toy/train, for step {{step}}: ValueError: bad sector"),
        (
            "Killed",
            2,
            r"a process that reads images ended by signal 9 while step \d+ waited for images .* of toy/train",
        ),
    ],
)
def test_where_reading_fails_the_steps_before_are_kept(tmp_path: Path, kind: str, workers: int, message: str) -> None:
    config = config_of(tmp_path / "run", kind, workers, checkpoint_every=100)
    step = step_that_needs(BAD, config)
    taken = []

    def break_later(steps: int) -> None:
        taken.append(steps)
        if steps == 5:
            (tmp_path / "broken").touch()

    with pytest.raises(DataError, match=message.format(step=step + 1)) as caught:
        train(config, on_step=break_later)
    if kind == "Failing":
        assert "in _read" in str(caught.value.__cause__)
    assert not active_children()
    assert state_of(config.run)["step"] == taken[-1]
    assert taken[-1] == step or kind == "Killed"  # which is noticed while another step waits, too
    (tmp_path / "broken").unlink()
    train(config, resume=True)
    whole = train(config_of(tmp_path / "whole", "array", 0))
    state, expected = state_of(config.run), state_of(whole)
    for entry in ("step", "model", "optimizer", "epoch_loss"):
        assert same(state[entry], expected[entry])


def test_a_reader_that_cannot_be_pickled_is_named(tmp_path: Path) -> None:
    message = r"data.workers: expected images that can be pickled.* got Unpicklable \(.*lambda.*set data.workers to 0"
    with pytest.raises(ConfigError, match=message):
        train(config_of(tmp_path / "run", "Unpicklable", 1))
    assert not active_children()
    train(config_of(tmp_path / "run", "Unpicklable", 0, epochs=1))


SCRIPT = """
from pathlib import Path
from tests.training.test_feed import config_of
from aoq_ext.training import train
train(config_of(Path({run!r}), "mapped", 1, epochs=100000), on_step=lambda step: print(step, flush=True))
"""


def test_a_script_that_does_not_expect_processes_is_told_how(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(run=str(tmp_path / "run")))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert "ended with exit code 1 while step 1 waited" in result.stderr
    assert "does so under if __name__ == '__main__':" in result.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_process_and_no_memory(tmp_path: Path, how: signal.Signals) -> None:
    before = shared_memory()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT.format(run=str(tmp_path / "run"))]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != b"8":
            assert process.poll() is None
        assert members(process.pid) > 1
        process.send_signal(how)
        process.stdout.close()
    assert comes_true(lambda: members(process.pid) == 0)
    assert comes_true(lambda: shared_memory() <= before)
    assert state_of(tmp_path / "run")["step"] >= 6


def members(session: int) -> int:
    """Processes of a session that run."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        count += int(fields[3]) == session and fields[0] != "Z"
    return count


def in_two_processes(rank: int, folder: Path) -> None:
    for workers in (0, 1):
        train(config_of(folder / str(workers), "mapped", workers, batch_size=9, epochs=1))


def test_each_process_of_a_group_reads_its_share(tmp_path: Path) -> None:
    launch(2, in_two_processes, tmp_path)
    assert same(state_of(tmp_path / "1"), state_of(tmp_path / "0"))


@pytest.mark.parametrize(("kind", "workers"), [("array", 0), ("mapped", 2), ("Copied", 2)])
def test_images_in_memory_are_read_by_the_process_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, workers: int
) -> None:
    monkeypatch.setattr("aoq_ext.training.feed.available_cores", lambda: 16)
    config = config_of(tmp_path / "run", kind, None)
    pairs = EncodedPairs(data := load_split(config.data, "train"), make_tokenizer(config.data, data.captions))
    batches = PairBatches(pairs.captions, config.batch_size, config.seed)
    assert Feed(config, pairs, batches, ALONE)._loader.num_workers == workers


def test_a_step_that_is_over_holds_no_images(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", "array", 0)
    pairs = EncodedPairs(data := load_split(config.data, "train"), make_tokenizer(config.data, data.captions))
    batches = PairBatches(pairs.captions, config.batch_size, config.seed)
    steps = Feed(config, pairs, batches, ALONE).epoch(0, 0, "online_triplet", None)
    images = weakref.ref(next(steps).batches[0].images)
    assert images() is None


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("workers", -1, "data.workers: expected 0 or more processes or null, got -1"),
        ("prefetch", 0, "data.prefetch: expected a positive number, got 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, entry: str, value: int, message: str) -> None:
    config = toy_config(tmp_path)
    setattr(config.data, entry, value)
    with pytest.raises(ConfigError, match=message):
        check(config)
