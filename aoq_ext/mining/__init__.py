"""Hard negatives over a whole training set, exactly; `aoq_ext.lists` keeps them in files and draws from these."""

from .._sources import open_embeddings
from .api import HardNegatives, mine_hard_negatives
from .captions import caption_labels

__all__ = ["HardNegatives", "caption_labels", "mine_hard_negatives", "open_embeddings"]
