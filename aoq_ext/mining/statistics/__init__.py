"""What mined lists say about themselves: hardness, hubs, suspected false negatives, agreement with an earlier mining.

Plain arrays in, which may be memory-mapped, and plain figures out; needs NumPy.
"""

from .data import MiningRecord, RankedLists
from .summary import Statistics, collect, for_machines

__all__ = ["MiningRecord", "RankedLists", "Statistics", "collect", "for_machines"]
