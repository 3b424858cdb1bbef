"""How strongly each attached adapter acts, block by block.

Layer by layer, since the coarser ways lose some: diffusers' `set_adapters` with weights per
block gives resnets the weight of the attention beside them, and leaves the convolutions of
blocks without attention at full strength.
"""

import math
from collections.abc import Mapping

from torch import nn

from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.layers import activate, lora_layers, require_attached
from blockwise_lora.blocks.mask import Mask
from blockwise_lora.blocks.structure import BlockMap

Strength = float | Mapping[str, float]


def set_strengths(
    unet: nn.Module, strengths: Mapping[str, Strength]
) -> dict[str, dict[str, float]]:
    """Activate adapters and set their strengths; whatever is not named is off.

    Args:
        unet: the U-Net.
        strengths: adapter name to one number, or to numbers by block. A block is named as in a
            mask (`out1`, `OUT07`, `in0-mid`, `all`, a preset); later entries win, and blocks
            that no entry names act at 1. A strength multiplies the adapter's own scale: 1 is as
            trained, 0 is off. No file holds it.

    Returns:
        Adapter name to the strength of each sub-block that it touches.

    Raises:
        AdapterError: no such adapter, or a strength is not a finite number; nothing is changed.
        MaskError: a block that the model lacks; nothing is changed.
    """
    for name in strengths:
        require_attached(unet, name)
    blocks = BlockMap.of(unet)
    by_block = {name: _by_block(name, given, blocks) for name, given in strengths.items()}
    touched: dict[str, dict[str, float]] = {name: {} for name in strengths}
    for key, layer in lora_layers(unet):
        sub_block = blocks.layers[key][0].name
        here = {name: by_block[name][sub_block] for name in strengths if name in layer.lora_A}
        for name, weight in here.items():
            touched[name][sub_block] = weight
            layer.set_scale(name, weight)
        activate(layer, [name for name, weight in here.items() if weight])
    return touched


def _by_block(name: str, given: Strength, blocks: BlockMap) -> dict[str, float]:
    entries = given if isinstance(given, Mapping) else {"all": given}
    weights = dict.fromkeys(blocks.names, 1.0)
    for key, weight in entries.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise AdapterError(f"strength of {name!r} in {key!r} is not a number: {weight!r}")
        if not math.isfinite(weight):
            raise AdapterError(f"strength of {name!r} in {key!r} is not finite: {weight!r}")
        weights |= dict.fromkeys(Mask.parse(key).selected(blocks), float(weight))
    return weights
