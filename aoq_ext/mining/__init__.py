"""Hard negatives over a whole training set, exactly."""

from .api import HardNegatives, mine_hard_negatives

__all__ = ["HardNegatives", "mine_hard_negatives"]
