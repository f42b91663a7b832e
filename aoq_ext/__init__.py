"""Adaptive Offline Quintuplet loss for image-text matching, as fused kernels (ECCV 2020, arXiv 2003.03669)."""

from . import _start, functional, lists, metrics, mining, reference  # noqa: F401  (_start is first: before torch)
from ._version import __version__
from .lists import HardNegativeBatchSampler, OfflineNegativeSampler
from .losses import AdaptiveQuintupletLoss, AdaptiveQuintupletScoreLoss
from .mining import HardNegatives, mine_hard_negatives
from .ops.build_info import build_info
from .selection import OnlineNegatives, hardest_negatives

__all__ = [
    "AdaptiveQuintupletLoss",
    "AdaptiveQuintupletScoreLoss",
    "HardNegativeBatchSampler",
    "HardNegatives",
    "OfflineNegativeSampler",
    "OnlineNegatives",
    "__version__",
    "build_info",
    "functional",
    "hardest_negatives",
    "metrics",
    "mine_hard_negatives",
    "mining",
    "reference",
]
