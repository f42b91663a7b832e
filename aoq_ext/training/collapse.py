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
    """

    def __init__(self, margin_online: float, patience: int) -> None:
        self.margin_online = margin_online
        self.patience = patience
        self.threshold = 0.05 * margin_online
        self.count = 0

    def update(self, measurement: Mapping[str, float]) -> bool:
        """Take one result of `measure`; True when this one completes a collapse."""
        distance = measurement.get("distance")
        if distance is None:  # a batch without negatives says nothing
            return False
        self.count = self.count + 1 if distance < self.threshold else 0
        return self.count == self.patience

    def explain(
        self, step: int, measurement: Mapping[str, float], batch_size: int, warmup_epochs: int, lr: float
    ) -> str:
        return (
            f"training has collapsed at step {step}: in the last {self.patience} measurements every pair was as "
            f"similar as its hardest negatives (now {measurement['similarity/positive']:.3f} and "
            f"{measurement['similarity/online_text']:.3f}), which holds the hardest-negative loss at its plateau "
            f"2 * batch_size * margin_online = {2 * batch_size * self.margin_online:.4g}. "
            f"Cause: hardest negatives push a model that cannot yet rank pairs towards one embedding for everything. "
            f"Cure: more epochs with every negative first (warmup_epochs, now {warmup_epochs}), "
            f"or a lower optimizer.lr (now {lr:g})"
        )
