"""Numbers by block: strengths, alphas, factors of the learning rate.

    alphas: {all: 8, in3-out0: 4, OUT07: 1}

A block is named as in a mask, without a rank; later entries win.
"""

import math
from collections.abc import Mapping
from typing import Literal

from blockwise_lora.blocks.mask import Mask, MaskError
from blockwise_lora.blocks.structure import BlockMap

PerBlock = Mapping[str, float]
"""Block, range, group, preset or mask without ranks -> number. The order of entries matters."""


Sign = Literal["any", "not negative", "positive"]


def checked(settings: PerBlock, sign: Sign = "any") -> dict[str, float]:
    """The same settings with canonical names, in the same order, as far as no model is needed.

    Args:
        settings: names to numbers.
        sign: what is asked of the numbers.

    Raises:
        MaskError: a name that is no mask, or has a rank; a value that is not a finite number or
            not of that sign. It is a `ValueError`, too, and has one line for each mistake.
    """
    found, mistakes = {}, []
    for key, value in settings.items():
        try:
            name, number = str(_blocks(key)), _number(key, value, sign)
        except MaskError as error:
            mistakes.append(str(error))
            continue
        found.pop(name, None)  # OUT1 after out1: the later one counts as the later one
        found[name] = number
    if mistakes:
        raise MaskError("\n".join(mistakes))
    return found


def per_block(settings: PerBlock, blocks: BlockMap) -> dict[str, float]:
    """The number of every sub-block that the settings name, in the order of the model.

    Args:
        settings: names to numbers; where two entries name a block, the later one wins.
        blocks: of the model.

    Raises:
        MaskError: as `checked`, or the model lacks a block.
    """
    numbers: dict[str, float] = {}
    for key, value in checked(settings).items():
        numbers |= dict.fromkeys(_blocks(key).selected(blocks), value)
    return {name: numbers[name] for name in blocks.names if name in numbers}


def _blocks(key: str) -> Mask:
    mask = Mask.parse(key)
    if ranked := [str(term) for term in mask.terms if term.rank]:
        raise MaskError(f"{key!r} has a rank ({ranked[0]}): here a block is named without one")
    return mask


def _number(key: str, value: object, sign: Sign) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MaskError(f"{key}: {value!r} is not a finite number")
    if (sign == "not negative" and value < 0) or (sign == "positive" and value <= 0):
        raise MaskError(f"{key}: {value} is not {sign.replace('not negative', '0 or more')}")
    return float(value)
