"""Captions: where they come from, how they are tidied, and what training draws from them."""

from blockwise_lora.imagesets.captioning.variants import VariantRules, variants

__all__ = ["VariantRules", "variants"]
