"""The mining benchmark's own logic, on the CPU and at a size that takes a moment."""

import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def mining():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import gpu_mining
    finally:
        sys.path.remove(str(BENCHMARKS))
    return gpu_mining


def test_every_form_is_measured_and_ours_is_right(mining, tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "ROUNDS", 1)
    raw = tmp_path / "mining.json"
    report = mining.run_all(torch.device("cpu"), 600.0, 20, raw, {"processor": "some"})
    assert json.loads(raw.read_text()) == report
    assert [record["note"] for record in report["records"]] == [""] * 9
    ours = [record["values"] for record in report["records"] if record["form"] == mining.OURS]
    assert [values["wrong"] for values in ours] == [0.0] * 3
    text = mining.tables(report)
    assert "processor some" in text and "20 × 100 × 1024" in text and "not measured" not in text


def test_a_wrong_list_is_noticed(mining):
    task = mining.make_task(torch.float32, 12, torch.device("cpu"))
    rows, columns = mining.ours(task)
    assert mining.wrong_lists((rows, columns), task) == 0
    rows[0, 0] += 1 << 32  # the next float
    columns[-1, :-1] = columns[-1, 1:].clone()  # one is left out
    assert mining.wrong_lists((rows, columns), task) == 2


def test_what_the_time_does_not_reach_is_named(mining, tmp_path):
    report = mining.run_all(torch.device("cpu"), -1.0, 20, tmp_path / "mining.json", {})
    assert {record["note"] for record in report["records"]} == {"not measured: time was up"}
    assert mining.tables(report).count("not measured |") == 3


@pytest.mark.parametrize(("seconds", "verdicts"), [(0.25, ["met"] * 3), (0.27, ["missed", "met", "met"])])
def test_targets(mining, seconds, verdicts):
    images = mining.IMAGES
    times = {mining.OURS: seconds, mining.CHUNKED: 2.0, mining.PRODUCT: 0.18}
    values = {("bfloat16", images, 1024, form, "seconds"): time for form, time in times.items()}
    assert [target.judge(values)[1] for target in mining.targets(images)] == verdicts
