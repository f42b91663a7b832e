"""The sentences that judge the figures of a run: a claim is made here from the figures or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aoq_ext.report.run.data import FROM_NOTHING, ReportData, Round, Split
from aoq_ext.report.words import listed, number, signed
from aoq_ext.training.pair_sample import PairSimilarities

SAME = "the same to one decimal"
STYLES = {"round 1": "first", "round 2": "second", "control": "control"}
MEASURES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "medr": "median rank"}


def style(better: float) -> str:
    """A class of style.css for a gain of `better`, judged as it is printed."""
    rounded = round(better, 1)
    return "" if rounded == 0 else "good" if rounded > 0 else "bad"


def rsum_difference(split: Split) -> float:
    return split.after["rsum"] - split.before["rsum"]


def compared(difference: float) -> str:
    """Either "3.1 points higher", "3.1 points lower", or "the same to one decimal"."""
    if float(f"{difference:.1f}") == 0:
        return SAME
    return f"{abs(difference):.1f} points {'higher' if difference > 0 else 'lower'}"


def is_clear(split: Split) -> bool:
    return clear(split.intervals["rsum"])


def clear(interval: tuple[float, float]) -> bool:
    """Whether it excludes zero."""
    low, high = interval
    return low > 0 or high < 0


def certainty(split: Split) -> str:
    """What the interval over resampled test images allows to say about the sign of the difference."""
    low, high = split.intervals["rsum"]
    verdict = "it includes zero, so the difference is within noise: it may be the luck of these test images"
    if low == high == 0:
        verdict = "no difference"
    elif is_clear(split):
        verdict = f"{'better' if low > 0 else 'worse'}, beyond the luck of these test images"
    return f"95 % interval {signed(low)} to {signed(high)}: {verdict}"


def overall(data: ReportData) -> str:
    """What happened to rsum on every split, and on which of them it is more than the luck of the test images."""
    changes = [f"{compared(rsum_difference(split))} on {split.title}" for split in data.splits]
    if all(change.startswith(SAME) for change in changes):
        changes = [f"{SAME} on {listed([split.title for split in data.splits])}"]
    certain = [split.title for split in data.splits if is_clear(split)]
    if not certain:
        reach = "All of this is within noise: no difference stays clear of zero when the test images are resampled."
    elif len(certain) == len(data.splits):
        reach = "Resampling the test images does not change the sign of any of these differences."
    else:
        reach = (
            f"Only on {listed(certain)} does the difference keep its sign when the test images are resampled; "
            f"elsewhere it is within noise."
        )
    return (
        f"Against {the(data.baseline)}, AOQ’s rsum is {listed(changes)}. "
        f"{reach}{warmup_warning(data)}{shortness_warning(data)}"
    )


def the(run: str) -> str:
    return "the control" if run == "control" else run


def shortness_warning(data: ReportData) -> str:
    """A warning when training was too short to show anything; else nothing."""
    epochs = min((len(run.loss) for run in data.runs.values() if run.start == FROM_NOTHING), default=5)
    return f" But {epochs} epochs show that everything works, and nothing else." if epochs < 5 else ""


def warmup_warning(data: ReportData) -> str:
    """A warning when the weights evaluated never met the loss they are to stand for; else nothing."""
    early = [the(name) for name, run in data.runs.items() if run.best_epoch <= run.warmup_epochs]
    if not early:
        return ""
    if {the(data.baseline), "round 2"} <= set(early):
        return f" But the best epochs of {listed(early)} lie in the warm-up, which they share: this compares nothing."
    return f" But the best epoch of {listed(early)} lies in its warm-up, before its own loss began."


def chance_rsum(split: Split) -> float:
    """rsum of a random order of the answers, every image having the same number of captions."""
    own = split.captions / split.images
    total = 0.0
    for level in (1, 5, 10):
        missed = np.prod([max(0.0, 1 - own / (split.captions - drawn)) for drawn in range(min(level, split.captions))])
        total += 100 * (1 - missed) + 100 * min(1.0, level / split.images)
    return float(total)


def curves_takeaway(data: ReportData) -> str:
    before, after = data.runs[data.baseline], data.runs["round 2"]
    gain = best(after) - best(before)
    return (
        f"The best validation rsum of round 2 is {best(after):.1f} (epoch {after.best_epoch}), {compared(gain)} "
        f"{than(gain)} {the(data.baseline)}’s {best(before):.1f} (epoch {before.best_epoch}).{warmup_warning(data)}"
    )


def than(difference: float) -> str:
    return "than" if float(f"{difference:.1f}") else "as"


def best(run: Round) -> float:
    return float(run.validation["rsum"][run.best_epoch - 1])


def gap(similarities: PairSimilarities) -> float:
    """Median positive minus median offline negative similarity."""
    return float(np.median(similarities.positive) - np.median(similarities.offline))


def violations(similarities: PairSimilarities) -> float:
    """Percent of pairs whose offline negative scores no less than the pair itself."""
    return float(100 * np.mean(similarities.offline >= similarities.positive))


def similarity_takeaway(data: ReportData) -> str:
    first, second = (data.runs[name].similarities for name in (data.baseline, "round 2"))
    before, after = gap(first), gap(second)
    if abs(after - before) < 0.005:
        change = f"stays at {number(after, 2)}"
    else:
        change = f"{'widens' if after > before else 'narrows'} from {number(before, 2)} to {number(after, 2)}"
    return (
        f"From {the(data.baseline)} to round 2 the gap between the medians of the positives and of the same offline "
        f"negatives {change}. Pairs whose offline negative scores at least as high as the right caption: "
        f"{violations(first):.1f} % → {violations(second):.1f} %."
    )


def cost_takeaway(data: ReportData) -> str:
    """Whether the comparison is fair in what the encoders were given to see."""
    before, after = data.runs[data.baseline], data.runs["round 2"]
    ratio = after.pairs_encoded / before.pairs_encoded
    start = (
        f"Both begin with {weights(after)}"
        if before.start == after.start
        else f"Round 2 begins with {weights(after)}, {the(data.baseline)} with {weights(before)}"
    )
    if abs(ratio - 1) < 0.05:
        return f"{start}, and to within 5 % their encoders see as many pairs: the comparison is at equal cost."
    return f"{start}, and round 2’s encoders see {ratio:.1f} times the pairs: the comparison is not at equal cost."


def weights(run: Round) -> str:
    return run.start if run.start == FROM_NOTHING else f"the best weights of {run.start}"


def flattened(config: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and text."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{name}.")
        else:
            flat[name] = str(value)
    return flat


def compared_settings(runs: Sequence[Mapping[str, str]]) -> tuple[list[str], list[str]]:
    """The names under which runs differ, and those under which they agree."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    differing = [name for name in names if len({run.get(name) for run in runs}) > 1]
    return differing, [name for name in names if name not in differing]


def gallery_split(data: ReportData) -> Split:
    return next(split for split in data.splits if split.name == data.gallery_split)
