"""The study: what its arms cost, how sure its differences are, and a small one from end to end."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning_fabric")

from aoq_ext.metrics import RetrievalRanks

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from study import run
from study.arms import RANDOM, Arm, Question, after, questions, settings
from study.intervals import Difference, over_test_images
from study.jobs import Plan, carry_out, read_results

PLAIN, ATTENTION = settings("tiny", Path("."))


def test_intervals_are_students() -> None:
    difference = Difference((1.0, 2.0, 3.0))  # mean 2, deviation 1, t with 2 degrees of freedom 4.303
    half = 4.303 / math.sqrt(3)
    assert difference.interval == pytest.approx((2 - half, 2 + half))
    assert difference.verdict == "no difference that stands out of the noise"
    assert Difference((2.0, 2.1, 2.2, 1.9)).verdict == "gains"
    assert Difference((-2.0, -2.1, -2.2)).verdict == "loses"
    assert Difference((0.0, -1.0, 2.0)).gained == 1
    assert Difference((5.0,)).interval == (-math.inf, math.inf)
    many = Difference(tuple(float(value) for value in range(100)))
    assert many.interval[1] - many.mean == pytest.approx(1.960 * 29.0115 / 10, rel=1e-4)


def ranks(seed: int, most: int, images: int = 200) -> RetrievalRanks:
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(images).repeat_interleave(2)
    i2t, t2i = (torch.randint(1, most, (count,), generator=generator) for count in (images, 2 * images))
    return RetrievalRanks(i2t, t2i, owner)


def test_the_bootstrap_over_test_images_is_that_of_the_metrics() -> None:
    ours, theirs = ranks(0, 12), ranks(1, 15)
    expected = ours.bootstrap(4000, over=theirs)["rsum"]
    assert over_test_images([ours], [theirs], 4000) == pytest.approx(expected, abs=2.0)  # about 40 wide
    assert over_test_images([ours, ours], [theirs, theirs], 4000) == pytest.approx(expected, abs=2.0)
    low, high = over_test_images([ours, ranks(2, 12)], [theirs, ranks(3, 15)], 4000)
    assert high - low < 0.85 * (expected[1] - expected[0])  # independent seeds narrow it
    assert over_test_images([ours], [ours]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("arm", "cost"),
    [
        (Arm("a", RANDOM, {"epochs": 4}), 4),
        (after("early", "online", epochs=6), 6),
        (after("early", "triplet", epochs=3), 2 * 3 + 1 / 3),
        (after("early", "attached", epochs=3), 3 * 3 + 1 / 3),
        (after("early", "detached", epochs=3, offline__remine_every=1), 3 * 3 + 3 / 3),
        (Arm("b", RANDOM, {"epochs": 4, "warmup_epochs": 1, "loss.objective": "offline_triplet"}, "a"), 1 + 6 + 1 / 3),
        (Arm("c", "a", {"epochs": 3}, candidates=4), 3 + 3 / 3),
    ],
)
def test_costs_count_encodings(arm: Arm, cost: float) -> None:
    assert arm.cost(PLAIN) == pytest.approx(cost)


def test_unknown_changes_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"loss\.obective: the configuration has no such entry"):
        Arm("a", RANDOM, {"loss.obective": "online_triplet"}).config(PLAIN)


@pytest.mark.parametrize("scale", ["tiny", "features", "icons"])
def test_arms_of_one_name_are_one_arm(scale: str) -> None:
    arms: dict[tuple[str, str], Arm] = {}
    for question in questions(scale, Path(".")).values():
        own = {arm.name for arm in question.arms}
        assert all({ours, theirs} <= own for ours, theirs in question.comparisons())
        assert {arm.start for arm in question.arms} - {RANDOM} <= own
        for arm in question.arms:
            assert arms.setdefault((question.setting.name, arm.name), arm) == arm


def test_controls_are_compared_once() -> None:
    compared = list(questions("tiny", Path("."))["a"].comparisons())
    assert ("early-online-long", "early-online") in compared
    assert ("early-online", "early-online-long") not in compared
    assert sum(ours == "early-detached" for ours, _ in compared) == 3


def small(names: Sequence[str], letter: str = "a") -> Question:
    question = questions("tiny", Path("."))[letter]
    return replace(question, arms=tuple(arm for arm in question.arms if arm.name in names))


def test_a_study_from_end_to_end(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {
        "a": replace(small(["round1-early", "early-online", "early-detached"]), controls=("early-online",)),
        "d": replace(small(["round1-early", "early-online-b8", "early-detached-b8"], "d"), pairs=PAIRS),
        "j": replace(small(["round1-early", "early-online", "early-bank-k4"], "j"), controls=("early-online",)),
    }
    monkeypatch.setattr(run, "questions", lambda scale, work: asked)
    words = ["--work", str(tmp_path / "work"), "--out", str(tmp_path), "--figures", str(tmp_path), "--scale", "tiny"]
    run.main([*words, "--questions", "a:2", "d:2", "j:1", "--jobs", "2"])
    assert "[13/13]" in capsys.readouterr().out
    (page,) = tmp_path.glob("*-study.md")
    text = page.read_text()
    assert "| early-detached | early-online | " in text
    assert "Against early-online, " in text
    assert {path.suffix for path in tmp_path.glob("study-gain.*")} == {".png"}
    content = json.loads(page.with_suffix(".json").read_text())
    assert len(content["runs"]) == 11
    assert {"metrics", "cost", "seconds", "config", "diagnostics"} <= content["runs"][0].keys()

    page.unlink()
    run.main([*words, "--report-only", "--questions", "a:2", "d:2", "j:1"])
    assert "[" not in capsys.readouterr().out  # nothing was trained
    assert page.read_text().splitlines()[3:] == text.splitlines()[3:]


PAIRS = (("early-detached-b8", "early-online-b8"),)


def test_a_study_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    def plan() -> Plan:
        made = Plan(tmp_path, threads=1)
        made.add(small(["round1-early", "early-detached"]), seeds=1)
        return made

    for _ in carry_out(plan(), 1):
        pass
    whole = read_results(plan())
    assert [folder.name for folder in whole] == ["round1-early", "early-detached"]
    assert plan().waiting() == []

    last = list(whole)[-1]
    (last / "result.json").unlink()  # killed after its training
    assert [job.folder for job in plan().waiting()] == [last]
    for done, total, folder, _, _ in carry_out(plan(), 1):
        assert (done, total, folder) == (1, 1, last)
    assert read_results(plan())[last]["metrics"] == whole[last]["metrics"]


def test_what_needs_a_failed_job_is_left_out(tmp_path: Path) -> None:
    question = small(["round1-early", "early-online"])
    broken = replace(question.arms[0], changes={"epochs": 1, "model.image_encoder.factory": "aoq_ext.nowhere.Encoder"})
    plan = Plan(tmp_path, threads=1)
    plan.add(replace(question, arms=(broken, question.arms[1])), seeds=1)
    done = carry_out(plan, 1)
    _, _, folder, _, words = next(done)
    assert folder.name == "round1-early" and words.startswith("failed: ")
    with pytest.raises(ValueError, match="nowhere"):
        next(done)
