"""Noticing that a model has stopped telling pairs apart."""

from __future__ import annotations

from collections.abc import Mapping


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
    negatives are pulled nearer.
    """

    def __init__(self, margin_online: float, patience: int, beta: float | None = None) -> None:
        self.margin_online = margin_online
        self.beta = beta
        self.patience = patience
        self.threshold = 0.05 * margin_online
        self.count = 0
        self.heavy = 0  # those of the last measurements, all of the collapse, whose mean weight was above beta

    def update(self, measurement: Mapping[str, float]) -> bool:
        """Take one result of `measure`; True when this one completes a collapse."""
        distance = measurement.get("distance")
        if distance is None:  # a batch without negatives says nothing
            return False
        near = distance < self.threshold
        self.count = self.count + 1 if near else 0
        heavy = near and self.beta is not None and measurement.get("weight", self.beta) > self.beta
        self.heavy = self.heavy + 1 if heavy else 0
        return self.count == self.patience

    def explain(
        self, step: int, measurement: Mapping[str, float], batch_size: int, warmup_epochs: int, lr: float
    ) -> str:
        warmup = f"warmup_epochs, now {warmup_epochs}"
        if self.beta is not None and self.heavy >= self.patience:
            cause = (
                f"the adaptive weights, on average {measurement['weight']:.3f} now, above loss.beta = {self.beta:g}, "
                f"for online negatives are harder than offline ones (a - n is {measurement['gap']:.3f}): the gradient "
                f"through such weights pulls offline negatives nearer. Cure: loss.detach_weight true, or a start from "
                f"a trained model (init), or, where online triplets alone collapse too, more epochs with every "
                f"negative first ({warmup})"
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
