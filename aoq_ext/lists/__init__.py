"""Mined lists on the disk: written, read, and drawn from in training."""

from .files import mine_to_files
from .hard_batches import HardNegativeBatchSampler
from .manifest import MinedFrom, fingerprint_embeddings
from .mined_lists import MinedLists
from .sampler import OfflineNegatives, OfflineNegativeSampler, StaleNegativesWarning

MinedFiles = MinedLists  # its name in `aoq_ext.mining`

__all__ = [
    "HardNegativeBatchSampler",
    "MinedFiles",
    "MinedFrom",
    "MinedLists",
    "OfflineNegativeSampler",
    "OfflineNegatives",
    "StaleNegativesWarning",
    "fingerprint_embeddings",
    "mine_to_files",
]
