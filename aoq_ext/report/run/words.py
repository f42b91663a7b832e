"""The sentences that judge the figures of a run: a claim is made here from the figures or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from aoq_ext.report.run.data import ReportData, Round, Split
from aoq_ext.report.words import listed, number, signed
from aoq_ext.training.pair_sample import PairSimilarities

SAME = "the same to one decimal"
MEASURES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "medr": "median rank"}


class Judgement(NamedTuple):
    style: str  # a class of style.css
    word: str


def judgement(better: float) -> Judgement:
    """Of a gain of `better`, judged as it is printed."""
    rounded = round(better, 1)
    if rounded == 0:
        return Judgement("", "same")
    return Judgement("good", "better") if rounded > 0 else Judgement("bad", "worse")


def rsum_difference(split: Split) -> float:
    return split.after["rsum"] - split.before["rsum"]


def compared(difference: float) -> str:
    """Either "3.1 points higher", "3.1 points lower", or "the same to one decimal"."""
    if float(f"{difference:.1f}") == 0:
        return SAME
    return f"{abs(difference):.1f} points {'higher' if difference > 0 else 'lower'}"


def is_clear(split: Split) -> bool:
    low, high = split.rsum_interval
    return low > 0 or high < 0


def certainty(split: Split) -> str:
    """What the interval over resampled test images allows to say about the sign of the difference."""
    low, high = split.rsum_interval
    verdict = "it includes zero, so this may be the luck of these test images"
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
    clear = [split.title for split in data.splits if is_clear(split)]
    if not clear:
        reach = "No difference stays clear of zero when the test images are resampled."
    elif len(clear) == len(data.splits):
        reach = "Resampling the test images does not change the sign of any of these differences."
    else:
        reach = f"Only on {listed(clear)} does the difference keep its sign when the test images are resampled."
    return (
        f"In this run AOQ’s rsum is {listed(changes)}. {reach}{warmup_warning(*data.rounds)}{shortness_warning(data)}"
    )


def shortness_warning(data: ReportData) -> str:
    """A warning when training was too short to show anything; else nothing."""
    epochs = min(len(run.loss) for run in data.rounds)
    return f" But {epochs} epochs show that everything works, and nothing else." if epochs < 5 else ""


def warmup_warning(first: Round, second: Round) -> str:
    """A warning when the weights evaluated never met the loss they are to stand for; else nothing."""
    early = [name for name, run in (("round 1", first), ("round 2", second)) if run.best_epoch <= run.warmup_epochs]
    if len(early) == 2:
        return " But the best epoch of both rounds lies in the warm-up, which they share: this compares nothing."
    if early:
        return f" But the best epoch of {early[0]} lies in its warm-up, before its own loss began."
    return ""


def chance_rsum(split: Split) -> float:
    """rsum of a random order of the answers, every image having the same number of captions."""
    own = split.captions / split.images
    total = 0.0
    for level in (1, 5, 10):
        missed = np.prod([max(0.0, 1 - own / (split.captions - drawn)) for drawn in range(min(level, split.captions))])
        total += 100 * (1 - missed) + 100 * min(1.0, level / split.images)
    return float(total)


def curves_takeaway(first: Round, second: Round) -> str:
    best_first, best_second = best(first), best(second)
    return (
        f"The best validation rsum of round 2 is {best_second:.1f} (epoch {second.best_epoch}), "
        f"{compared(best_second - best_first)} {than(best_second - best_first)} "
        f"round 1’s {best_first:.1f} (epoch {first.best_epoch}).{warmup_warning(first, second)}"
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


def similarity_takeaway(first: PairSimilarities, second: PairSimilarities) -> str:
    before, after = gap(first), gap(second)
    if abs(after - before) < 0.005:
        change = f"stays at {number(after, 2)}"
    else:
        change = f"{'widens' if after > before else 'narrows'} from {number(before, 2)} to {number(after, 2)}"
    return (
        "From round 1 to round 2 the gap between the medians of the positives and of the same offline negatives "
        f"{change}. "
        f"Pairs whose offline negative scores at least as high as the right caption: "
        f"{violations(first):.1f} % → {violations(second):.1f} %."
    )


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


def compared_settings(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The names under which two runs differ, and those under which they agree."""
    names = list(dict.fromkeys([*first, *second]))
    differing = [name for name in names if first.get(name) != second.get(name)]
    return differing, [name for name in names if name not in differing]


def gallery_split(data: ReportData) -> Split:
    return next(split for split in data.splits if split.name == data.gallery_split)
