"""Hard negatives over a whole training set, exactly; `aoq_ext.lists` keeps them in files and draws from these."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .._sources import open_embeddings
from .api import HardNegatives, mine_hard_negatives
from .captions import caption_labels

if TYPE_CHECKING:
    from ..lists import (
        HardNegativeBatchSampler,
        MinedFiles,
        MinedFrom,
        MinedLists,
        OfflineNegatives,
        OfflineNegativeSampler,
        StaleNegativesWarning,
        fingerprint_embeddings,
        mine_to_files,
    )

__all__ = [
    "HardNegativeBatchSampler",
    "HardNegatives",
    "MinedFiles",
    "MinedFrom",
    "MinedLists",
    "OfflineNegativeSampler",
    "OfflineNegatives",
    "StaleNegativesWarning",
    "caption_labels",
    "fingerprint_embeddings",
    "mine_hard_negatives",
    "mine_to_files",
    "open_embeddings",
]


def __getattr__(name: str) -> Any:
    """Names of `aoq_ext.lists`, which builds on this package and so is imported only when they are asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("aoq_ext.lists"), name)
