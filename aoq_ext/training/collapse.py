"""Noticing that a model has stopped telling pairs apart."""

from __future__ import annotations

from collections.abc import Mapping

_NEWEST = 0.2  # the share of the newest measurement in a running mean
_ABOVE = 0.02  # beyond rounding: a - n below -0.02 alpha


class CollapseError(RuntimeError):
    """Training has collapsed; the message names the cause and the cure."""


class CollapseDetector:
    """Watches p - n, the distance from a pair to its hardest negatives.

    When every embedding has drifted to the same place, each pair is as similar as its hardest negative: |p - n| is
    nearly 0 *for every pair*, and the hinge loss sits at its plateau, 2 * B * margin_online for hardest negatives. A
    model that learns may wait near the plateau too, its losses above the margin and below it averaging out, so it is
    the mean of |p - n| that tells the two apart.

    Args:
        margin_online: the margin of the online hinge; a distance below a twentieth of it counts as none.
        patience: that many measurements in a row make a collapse.
        beta: the adaptive weight at gap 0, where the loss passes gradients through the weights; None: it does not.

    Such weights may be the cause. w = beta + (n - a) / alpha lies above beta while online negatives n are harder than
    the offline ones a, as of a model from random weights, and a larger a makes w and with it the loss smaller: offline
    negatives are pulled nearer. In a collapse n and a are equal, so it is the weights on the way there that tell.
    """

    def __init__(self, margin_online: float, patience: int, beta: float | None = None) -> None:
        self.margin_online = margin_online
        self.beta = beta
        self.patience = patience
        self.threshold = 0.05 * margin_online
        self.count = 0
        self.weight: float | None = None  # mean over the last measurements that were no part of a collapse

    def update(self, measurement: Mapping[str, float]) -> bool:
        """Take one result of `measure`; True when this one completes a collapse."""
        distance = measurement.get("distance")
        if distance is None:  # a batch without negatives says nothing
            return False
        near = distance < self.threshold
        self.count = self.count + 1 if near else 0
        weight = measurement.get("weight")
        if weight is not None and not near:
            self.weight = weight if self.weight is None else self.weight + _NEWEST * (weight - self.weight)
        return self.count == self.patience

    def explain(
        self, step: int, measurement: Mapping[str, float], batch_size: int, warmup_epochs: int, lr: float
    ) -> str:
        warmup = f"warmup_epochs, now {warmup_epochs}"
        if self.beta is not None and self.weight is not None and self.weight > self.beta + _ABOVE:
            cause = (
                f"the adaptive weights, which were {self.weight:.3f} on average, above loss.beta = {self.beta:g}, for "
                f"online negatives were harder than offline ones: the gradient through such weights pulls offline "
                f"negatives nearer. Cure: loss.detach_weight true, or a start from a trained model (init), or, where "
                f"online triplets alone collapse too, more epochs with every negative first ({warmup})"
            )
        else:
            cause = (
                f"hardest negatives push a model that cannot yet rank pairs towards one embedding for everything. "
                f"Cure: more epochs with every negative first ({warmup}), or a lower optimizer.lr (now {lr:g})"
            )
        return (
            f"training has collapsed at step {step}: in the last {self.patience} measurements every pair was as "
            f"similar as its hardest negatives (now {measurement['similarity/positive']:.3f} and "
            f"{measurement['similarity/online_text']:.3f}), which holds the hardest-negative loss at its plateau "
            f"2 * batch_size * margin_online = {2 * batch_size * self.margin_online:.4g}. "
            f"Cause: {cause}"
        )
