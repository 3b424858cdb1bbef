"""Which pictures show the same thing: looks, candidates, registration, comparison."""

from blockwise_lora.imagesets.likeness.comparison import Difference, Limits
from blockwise_lora.imagesets.likeness.looks import WORKING_SIDE, Looks, looks_of
from blockwise_lora.imagesets.likeness.search import Match, Search, one_thread

__all__ = [
    "Difference",
    "Limits",
    "Looks",
    "looks_of",
    "Match",
    "one_thread",
    "Search",
    "WORKING_SIDE",
]
