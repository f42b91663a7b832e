"""Hard negatives over a whole training set, exactly: found, kept in files, and drawn for training."""

from .._sources import open_embeddings
from .api import HardNegatives, mine_hard_negatives
from .captions import caption_labels
from .files import MinedFiles, mine_to_files
from .lists_folder import MinedFrom, fingerprint_embeddings
from .sampler import OfflineNegatives, OfflineNegativeSampler, StaleNegativesWarning

__all__ = [
    "HardNegatives",
    "MinedFiles",
    "MinedFrom",
    "OfflineNegativeSampler",
    "OfflineNegatives",
    "StaleNegativesWarning",
    "caption_labels",
    "fingerprint_embeddings",
    "mine_hard_negatives",
    "mine_to_files",
    "open_embeddings",
]
