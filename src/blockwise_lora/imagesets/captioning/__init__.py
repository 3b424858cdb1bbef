"""Captions: where they come from, how they are tidied, and what training draws from them."""

from blockwise_lora.imagesets.captioning.captioner import Captioner
from blockwise_lora.imagesets.captioning.concept import ConceptTag, ConceptTagRules, concept_tags
from blockwise_lora.imagesets.captioning.config import CaptioningConfig
from blockwise_lora.imagesets.captioning.rule import CaptionRule
from blockwise_lora.imagesets.captioning.subject import CaptionSource, Encoder, Subject
from blockwise_lora.imagesets.captioning.table import CaptionRow, CaptionTable
from blockwise_lora.imagesets.captioning.tidy import TagRules, tidy
from blockwise_lora.imagesets.captioning.tokens import TextLimit
from blockwise_lora.imagesets.captioning.variants import VariantRules, variants

__all__ = [
    "CaptionRow",
    "CaptionRule",
    "CaptionSource",
    "CaptionTable",
    "Captioner",
    "CaptioningConfig",
    "ConceptTag",
    "ConceptTagRules",
    "Encoder",
    "Subject",
    "TagRules",
    "TextLimit",
    "VariantRules",
    "concept_tags",
    "tidy",
    "variants",
]
