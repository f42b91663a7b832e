"""Processes that work together: who is there, who does what, what they tell each other, and what a lost one is."""

from .lost import LostProcessError, advising
from .processes import ALONE, Processes, are_joined, joined, parting
from .shares import Shares

__all__ = ["ALONE", "LostProcessError", "Processes", "Shares", "advising", "are_joined", "joined", "parting"]
