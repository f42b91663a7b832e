"""The demo on a small part of the bundled data, from an empty folder to the report, and again."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from aoq_ext import demo
from aoq_ext.report.run.collect import SPLIT_TITLES
from aoq_ext.training import ConfigError, LossConfig, recipe
from aoq_ext.training.cost import pairs_encoded

RUNS = ("round1", "round2", "control")


def run(folder: Path, seed: int = 0) -> str:
    """What the demo prints."""
    output = io.StringIO()
    console = Console(file=output, width=200, color_system=None)
    assert demo.run_demo(folder, seed=seed, quick=True, console=console) == folder / "report.html"
    return output.getvalue()


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Steps this small are slower on several threads, and much slower beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, run(folder)


def test_demo_writes_everything(finished) -> None:
    folder, output = finished
    for name in ("round1/history.json", "negatives/manifest.json", *(f"{run}/best.ckpt" for run in RUNS)):
        assert (folder / name).is_file()
    seconds = json.loads((folder / "seconds.json").read_text())
    assert list(seconds) == list(demo.STEPS)
    assert all(value > 0 for value in seconds.values())
    assert str(folder / "report.html") in output.replace("\n", "")


def test_report_shows_the_run(finished) -> None:
    folder, output = finished
    page = (folder / "report.html").read_text()
    assert len(page) < 3_000_000
    assert page.count('class="panel"') == 7
    assert "data:image/png;base64," in page
    for name, title in SPLIT_TITLES.items():
        assert title in page
        assert title in output
        assert name in output
    assert "Against the control, AOQ’s rsum is" in output
    assert "the comparison is at equal cost" in page
    assert "128 images of it" in page
    assert str(folder) not in page


def test_demo_again_trains_nothing(finished) -> None:
    folder, first_output = finished
    kept = [folder / name for name in ("negatives/indices.npy", *(f"{run}/last.ckpt" for run in RUNS))]
    before = [path.stat().st_mtime_ns for path in kept]
    seconds = json.loads((folder / "seconds.json").read_text())

    output = run(folder)

    assert [path.stat().st_mtime_ns for path in kept] == before
    assert output.count("done before") == 4
    again = json.loads((folder / "seconds.json").read_text())
    assert [again[step] for step in demo.STEPS[:4]] == [seconds[step] for step in demo.STEPS[:4]]
    assert table_of(output) == table_of(first_output)


def test_interrupted_demo_goes_on(finished, tmp_path, monkeypatch) -> None:
    """The second round is killed after a step: the demo started again ends with the same figures."""
    folder, first_output = finished
    for name in ("round1", "negatives", "seconds.json"):
        (shutil.copytree if (folder / name).is_dir() else shutil.copy)(folder / name, tmp_path / name)
    # The lists' place is part of a run's configuration: the copy starts its second round from nothing.
    steps = []

    def stop(config, *, on_step=None, **options):
        if config.loss.objective == "online_triplet":
            return train(config, **options)

        def then_stop(step: int) -> None:
            on_step(step)
            steps.append(step)
            if step == 5:  # in the second epoch, after the first one's checkpoint
                raise KeyboardInterrupt

        return train(config, on_step=then_stop, **options)

    train = recipe.train
    monkeypatch.setattr(recipe, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(recipe, "train", train)
    partial = json.loads((tmp_path / "seconds.json").read_text())
    assert steps == [1, 2, 3, 4, 5]

    output = run(tmp_path)

    assert output.count("done before") == 2
    assert json.loads((tmp_path / "seconds.json").read_text())["round 2"] > partial["round 2"]
    assert table_of(output) == table_of(first_output)


def test_other_settings_need_another_folder(finished) -> None:
    folder, _ = finished
    with pytest.raises(ConfigError, match=r"with other settings; choose another --out, .* with 0, got 1\)$"):
        demo.run_demo(folder, seed=1, quick=True, console=Console(file=io.StringIO()))


@pytest.mark.parametrize("quick", [False, True])
def test_round_2_and_its_control_differ_in_the_loss_at_equal_cost(tmp_path, quick) -> None:
    rounds = demo.demo_recipe(tmp_path, seed=3, quick=quick)
    first, second, control = rounds.first, rounds.second, rounds.control
    assert (first.init, second.init, control.init) == (None, first.run, first.run)
    assert second.loss.objective == "adaptive_quintuplet"
    assert second.offline.lists == str(tmp_path / "negatives")
    own = {name: getattr(control, name) for name in ("run", "epochs", "loss", "offline")}
    assert replace(second, **own) == control
    assert pairs_encoded(second, 1000) == pairs_encoded(control, 1000)
    assert first.loss == control.loss == LossConfig()
    for name in ("seed", "batch_size", "model", "data", "precision"):
        assert getattr(first, name) == getattr(second, name)
    assert replace(first.optimizer, lr=first.optimizer.lr / 4) == second.optimizer
    assert first.seed == 3


def test_the_time_left_is_of_all_steps(tmp_path) -> None:
    rounds = demo.demo_recipe(tmp_path, seed=0, quick=True)
    work = demo.work_of(rounds, 128)
    assert tuple(work) == demo.STEPS
    assert work["control"] == work["round 2"] == 3 * work["round 1"] == 768


def table_of(output: str) -> list[str]:
    """The lines of the summary that hold figures."""
    lines = [line for line in output.splitlines() if any(f"({name})" in line for name in SPLIT_TITLES)]
    assert len(lines) == len(SPLIT_TITLES)
    return lines
