"""Merging adapters: one call, one rule a file."""

from blockwise_lora.adapters.merge.dare import Dare
from blockwise_lora.adapters.merge.errors import MergeError
from blockwise_lora.adapters.merge.klora import KLora
from blockwise_lora.adapters.merge.linear import Linear
from blockwise_lora.adapters.merge.magnitude import MagnitudePrune
from blockwise_lora.adapters.merge.merging import RULES, Rule, merge
from blockwise_lora.adapters.merge.parts import Base, Weighted
from blockwise_lora.adapters.merge.pick import Pick
from blockwise_lora.adapters.merge.provenance import MERGE
from blockwise_lora.adapters.merge.results import BakedModel, Merged, MergedAdapter, Stepwise
from blockwise_lora.adapters.merge.stepwise import choose_adapter
from blockwise_lora.adapters.merge.summed import Sum
from blockwise_lora.adapters.merge.svd import Svd
from blockwise_lora.adapters.merge.ties import Ties
from blockwise_lora.adapters.merge.ziplora import ZipLora

__all__ = [
    "MERGE",
    "RULES",
    "BakedModel",
    "Base",
    "Dare",
    "KLora",
    "Linear",
    "MagnitudePrune",
    "MergeError",
    "Merged",
    "MergedAdapter",
    "Pick",
    "Rule",
    "Stepwise",
    "Sum",
    "Svd",
    "Ties",
    "Weighted",
    "ZipLora",
    "choose_adapter",
    "merge",
]
