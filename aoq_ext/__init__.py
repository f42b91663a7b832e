"""Adaptive Offline Quintuplet loss for image-text matching, as fused kernels (arXiv 2003.03669)."""

from . import functional, reference
from .losses import AdaptiveQuintupletLoss, AdaptiveQuintupletScoreLoss

__all__ = ["AdaptiveQuintupletLoss", "AdaptiveQuintupletScoreLoss", "functional", "reference"]
__version__ = "0.1.0"
