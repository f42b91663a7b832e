"""The tables and the figure of the study, and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from aoq_ext.metrics import RetrievalRanks
from study.arms import Question
from study.intervals import Difference, over_test_images

MEASURE = "rsum"
DIAGNOSTICS = ("gap", "weight", "harder", "distance")


@dataclass(frozen=True)
class Study:
    """What was asked, and what is finished of it."""

    questions: dict[str, Question]
    runs: Mapping[tuple[str, str], Mapping[int, dict[str, Any]]]  # (setting, arm) -> seed -> result
    ranks: Mapping[tuple[str, str, int], RetrievalRanks]

    def difference(self, setting: str, arm: str, control: str) -> Difference | None:
        """None where no seed has both."""
        seeds = self.common(setting, arm, control)
        ours, theirs = (self.runs.get((setting, name), {}) for name in (arm, control))
        values = tuple(ours[seed]["metrics"][MEASURE] - theirs[seed]["metrics"][MEASURE] for seed in seeds)
        return Difference(values) if values else None

    def over_images(self, setting: str, arm: str, control: str) -> tuple[float, float]:
        seeds = self.common(setting, arm, control)
        ours, theirs = ([self.ranks[setting, name, seed] for seed in seeds] for name in (arm, control))
        return over_test_images(ours, theirs)

    def common(self, setting: str, *arms: str) -> list[int]:
        return sorted(set.intersection(*(set(self.runs.get((setting, arm), {})) for arm in arms)))


def report(study: Study, content: dict[str, Any]) -> str:
    """Markdown; ``content``: what the JSON holds."""
    machine, versions = content["machine"], content["versions"]
    lines = [
        "# What the adaptive offline quintuplet loss buys",
        "",
        f"`{content['command']}`, {content['date']}, commit {content['commit'][:12]}. {machine['processor']}, "
        f"{machine['cores']} cores, {content['jobs']} runs at a time with {content['threads']} thread(s) each; "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
        + ".",
        "",
        "rsum is the sum of R@1, R@5 and R@10 in both directions (600 at most): mean ± standard deviation over the "
        "seeds. Differences are paired by seed. The first interval (95 %, Student's t) is over the seeds: what another "
        "run may give. The second (95 %, bootstrap) is over the test images: what other queries may give with these "
        "runs. Cost is what the encoders do in this arm, in plain epochs, with mining and without the first round. "
        "gap, weight, harder and distance are those of the last measured step; a model whose distance is near 0 has "
        "collapsed, and a comparison with it says nothing about the objective. Nothing is corrected for the number of "
        "comparisons: of twenty without any effect one is expected to stand out.",
        "",
    ]
    for letter, question in study.questions.items():
        lines += _question(study, letter, question)
    return "\n".join(lines)


def _question(study: Study, letter: str, question: Question) -> list[str]:
    setting = question.setting
    lines = [f"## ({letter}) {question.title}", "", f"Setting {setting.name}, split {setting.test_split}.", ""]
    lines += _table(["arm", "seeds", "cost", MEASURE, "i2t R@1", "t2i R@1", *DIAGNOSTICS, "seconds"])
    for arm in question.arms:
        results = list(study.runs.get((setting.name, arm.name), {}).values())
        if not results:
            lines.append(_row([arm.name, "0", f"{arm.cost(setting):.1f}", *["–"] * (4 + len(DIAGNOSTICS))]))
            continue
        measured = [_spread([result["metrics"][name] for result in results]) for name in (MEASURE, "i2t_r1", "t2i_r1")]
        diagnostics = [_diagnostic(results, name) for name in DIAGNOSTICS]
        seconds = f"{mean(result['seconds'] for result in results):.0f}"
        lines.append(_row([arm.name, str(len(results)), f"{arm.cost(setting):.1f}", *measured, *diagnostics, seconds]))
    lines += ["", *_table(["arm", "against", "difference", "over seeds", "over test images", "seeds that gained"])]
    words = []
    for name, control in question.comparisons():
        difference = study.difference(setting.name, name, control)
        if difference is None:
            continue
        over_seeds = _interval(difference.interval)
        over_images = _interval(study.over_images(setting.name, name, control))
        gained = f"{difference.gained} of {len(difference.values)}"
        lines.append(_row([name, control, f"{difference.mean:+.2f}", over_seeds, over_images, gained]))
        words.append((name, control, difference))
    return [*lines, "", _in_words(words), ""]


def _in_words(compared: Sequence[tuple[str, str, Difference]]) -> str:
    """A sentence for each verdict and control, from the intervals over the seeds."""
    groups: dict[tuple[str, str], list[str]] = {}
    for arm, control, difference in compared:
        size = f"{arm} ({difference.mean:+.1f})"
        groups.setdefault((control, difference.verdict), []).append(size)
    sentences = []
    for (control, verdict), arms in groups.items():
        if verdict in ("gains", "loses"):
            sentences.append(f"Against {control}, over the seeds, {verdict}: {', '.join(arms)}.")
        else:
            sentences.append(f"Against {control}, {verdict}: {', '.join(arms)}.")
    return " ".join(sentences) or "Nothing can be compared yet."


def draw(study: Study, path: Path) -> None:
    """A PNG at ``path``: the gain of the pairs of question d against N/B, with its intervals over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    question = study.questions["d"]
    arms = {arm.name: arm for arm in question.arms}
    points = []
    for arm, control in question.pairs:
        difference = study.difference(question.setting.name, arm, control)
        if difference is not None and len(difference.values) > 1:
            (result, *_) = study.runs[question.setting.name, arm].values()
            points.append((result["steps"] / arms[arm].config(question.setting).epochs, difference))
    if not points:
        return
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    means = [difference.mean for _, difference in points]
    halves = [difference.interval[1] - difference.mean for _, difference in points]
    axes.axhline(0, color="0.6", linewidth=1)
    axes.errorbar([ratio for ratio, _ in points], means, halves, fmt="o", capsize=4, color="tab:blue")
    axes.set_xscale("log")
    axes.set_xticks([ratio for ratio, _ in points], [f"{ratio:.0f}" for ratio, _ in points])
    axes.minorticks_off()
    axes.set_xlabel("N/B, training images / batch size")
    axes.set_ylabel("gain in rsum over online triplets")
    axes.set_title("Adaptive quintuplets, 95 % intervals over seeds", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _diagnostic(results: Sequence[dict[str, Any]], name: str) -> str:
    values = [result["diagnostics"][name] for result in results if name in result["diagnostics"]]
    return f"{mean(values):.3f}" if values else "–"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:+.2f} to {ends[1]:+.2f}" if math.isfinite(ends[0]) else "–"


def _table(names: Sequence[str]) -> list[str]:
    return [_row(names), _row(["---"] * len(names))]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
