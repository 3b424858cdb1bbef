"""Named blocks of a denoiser, and masks that choose among them. Knows nothing of adapters."""

from blockwise_lora.blocks.mask import Mask, MaskError
from blockwise_lora.blocks.presets import PRESETS, Preset
from blockwise_lora.blocks.structure import BlockMap, Layer, StructureError, SubBlock

__all__ = [
    "BlockMap",
    "Layer",
    "Mask",
    "MaskError",
    "PRESETS",
    "Preset",
    "StructureError",
    "SubBlock",
]
