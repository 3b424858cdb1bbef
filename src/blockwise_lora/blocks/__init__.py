"""Named blocks of a model, and masks that choose among them. Knows nothing of adapters."""

from blockwise_lora.blocks.layers import Layer, SubBlock
from blockwise_lora.blocks.mask import Mask, MaskError
from blockwise_lora.blocks.presets import PRESETS, Preset
from blockwise_lora.blocks.settings import PerBlock, per_block
from blockwise_lora.blocks.structure import BlockMap, StructureError
from blockwise_lora.blocks.vectors import Vector

__all__ = [
    "BlockMap",
    "Layer",
    "Mask",
    "MaskError",
    "PRESETS",
    "PerBlock",
    "Preset",
    "StructureError",
    "SubBlock",
    "Vector",
    "per_block",
]
