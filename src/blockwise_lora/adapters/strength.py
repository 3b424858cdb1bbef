"""How strongly each attached adapter acts, block by block.

Layer by layer, since the coarser ways lose some: diffusers' `set_adapters` with weights per
block gives resnets the weight of the attention beside them, and leaves the convolutions of
blocks without attention at full strength. A strength means the same for every method: that share
of the change that the adapter makes to the layer's weight (see `acting`).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

from blockwise_lora.adapters.acting import trained_scale
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.layers import activate, levels, require_attached, tuner_layers
from blockwise_lora.adapters.parts import Model, Parts
from blockwise_lora.blocks.settings import per_block
from blockwise_lora.blocks.structure import BlockMap

Strength = float | Mapping[str, float]


def set_strengths(
    model: Model,
    strengths: Mapping[str, Strength],
    factors: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, dict[str, float]]:
    """Activate adapters and set their strengths; whatever is not named is off.

    Args:
        model: a U-Net, or `Parts` with text encoders.
        strengths: adapter name to one number, or to numbers by block. A block is named as in a
            mask (`out1`, `OUT07`, `in0-mid`, `all`, a preset); later entries win, and blocks
            that no entry names act at 1. A strength multiplies the change that the adapter
            makes: 1 is as trained, 0 is off. No file holds it.
        factors: adapter name to a factor of all its strengths, where it is not 1.

    Returns:
        Adapter name to the strength of each sub-block that it touches.

    Raises:
        AdapterError: no such adapter, or a strength is not a finite number; nothing is changed.
        MaskError: a block that the model lacks; nothing is changed.
    """
    parts = Parts.of(model)
    for name in strengths:
        require_attached(parts, name)
    blocks = parts.blocks
    weights = {
        name: {
            block: weight * factors.get(name, 1.0)
            for block, weight in _by_block(name, given, blocks).items()
        }
        for name, given in strengths.items()
    }
    touched: dict[str, dict[str, float]] = {name: {} for name in strengths}
    for key, layer in tuner_layers(parts):
        sub_block = blocks.layers[key][0].name
        acting = []
        for level in levels(layer):
            for name in strengths.keys() & level.r.keys():
                weight = touched[name][sub_block] = weights[name][sub_block]
                level.scaling[name] = weight * trained_scale(level, name)
                if weight:
                    acting.append(name)
        activate(layer, [name for name in strengths if name in acting])
    return touched


def _by_block(name: str, given: Strength, blocks: BlockMap) -> dict[str, float]:
    entries = given if isinstance(given, Mapping) else {"": given}
    for key, weight in entries.items():
        where = f"strength of {name!r}" + (f" in {key!r}" if key else "")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise AdapterError(f"{where} is not a number: {weight!r}")
        if not math.isfinite(weight):
            raise AdapterError(f"{where} is not finite: {weight!r}")
    if not isinstance(given, Mapping):
        return dict.fromkeys(blocks.names, float(given))
    return dict.fromkeys(blocks.names, 1.0) | per_block(given, blocks)
