"""What benchmarks/collapse.py writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning_fabric")

from aoq_ext.training.run import RunFiles
from tests.training.test_toy import toy_config

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import collapse


def test_a_row_for_every_run(tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "config")
    files.folder.mkdir()
    files.write_config(toy_config(tmp_path, log_every=1))
    flags = ["--config", str(files.config), "--loader", "tests.training.test_toy.load_toy", "--seeds", "1"]
    flags += ["--first-epochs", "4", "--epochs", "2", "--threads", "1", "--accelerator", "cpu"]
    flags += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    collapse.main(flags)
    text = (tmp_path / "out/collapse.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert [row[:3] for row in rows] == [[variant.name, "0", "10"] for variant in collapse.VARIANTS]
    assert [row[-1] for row in rows] == ["trained"] * 4
    runs = json.loads((tmp_path / "out/collapse-seed0.json").read_text())
    assert [len(run["steps"]) for run in runs] == [10] * 4
    first = {run["variant"]: run["steps"][0]["similarity/positive"] for run in runs}
    assert first["online_triplet"] == first["attached"] == first["detached"] != first["attached, init"]
    for row, run in zip(rows[1:], runs[1:], strict=True):
        weights = [entry["weight"] for entry in run["steps"][5:]]
        assert float(row[4]) == pytest.approx(sum(weights) / 5, abs=1e-3)
    collapse.main(flags)  # nothing is trained again
    assert (tmp_path / "out/collapse.md").read_text() == text


def test_a_collapse_is_an_outcome(tmp_path: Path) -> None:
    from tests.training.test_collapse import COLLAPSED

    config = toy_config(tmp_path / "run", model=COLLAPSED, warmup_epochs=0, collapse_patience=2, log_every=1)
    history, outcome = collapse.carry_out(config)
    assert (outcome, len(history.steps)) == ("collapsed", 2)
