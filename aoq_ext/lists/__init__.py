"""Mined lists on the disk: written, read, and drawn from in training."""

from .files import MinedFiles, mine_to_files
from .lists_folder import MinedFrom, fingerprint_embeddings
from .sampler import OfflineNegatives, OfflineNegativeSampler, StaleNegativesWarning

__all__ = [
    "MinedFiles",
    "MinedFrom",
    "OfflineNegativeSampler",
    "OfflineNegatives",
    "StaleNegativesWarning",
    "fingerprint_embeddings",
    "mine_to_files",
]
